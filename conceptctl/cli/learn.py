"""`conceptctl learn`: teach the model one concept from a folder of pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptctl.cli import completion
from conceptctl.cli.learn_display import PREVIEW_FOLDER, Display, duration
from conceptctl.cli.options import (
    DeviceOption,
    DryRunOption,
    ExtractorOption,
    FirstFrameOption,
    JsonOption,
    QuietOption,
    SkipBadOption,
    StoreOption,
    SymlinksOption,
    WaitOption,
    epilog,
)
from conceptctl.cli.output import Output
from conceptctl.cli.stores import open_store, size_text
from conceptctl.config import load_config
from conceptctl.errors import ConceptctlError, NotFound, UsageError
from conceptctl.learning.launch import processes
from conceptctl.methods import METHODS
from conceptctl.store.layout import chosen_root
from conceptctl.store.store import Store

if TYPE_CHECKING:
    from conceptctl.store.manifest import Generation
    from conceptctl.workflows.learn.plan import Plan
    from conceptctl.workflows.learn.request import Request
    from conceptctl.workflows.learn.run import LearnedConcept

EPILOG = epilog(
    "conceptctl learn ./photos --token alice --class person",
    "conceptctl learn ./photos --token alice --class person --dry-run",
    "conceptctl learn ./falls --token falls --class waterfall --preview --fold",
    'conceptctl learn ./photos --token alice --license "all rights reserved" --consent "Alice, 2026-11-01"',
    codes=(2, 3, 4, 5, 6, 7, 9, 130, 143),
)


FolderArgument = Annotated[Path, typer.Argument(help="Pictures of the one thing to learn.", metavar="DIR")]
TokenOption = Annotated[
    str, typer.Option("--token", help="Its name: V*NAME in prompts.", metavar="NAME", autocompletion=completion.lessons)
]
ClassOption = Annotated[
    str,
    typer.Option(
        "--class",
        help="What kind of thing it is: person, dog, waterfall.",
        metavar="WORD",
        autocompletion=completion.classes,
    ),
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method", help=f"One of {', '.join(METHODS)}.", rich_help_panel="Training", autocompletion=completion.methods
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="Settings of another preset than the base's: paper, or a file.",
        metavar="NAME",
        rich_help_panel="Training",
        autocompletion=completion.presets,
    ),
]
StepsOption = Annotated[
    int | None, typer.Option("--steps", "--max-train-steps", help="Optimizer steps.", rich_help_panel="Training")
]
BatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size", "--train-batch-size", help="The concept's pictures in a step.", rich_help_panel="Training"
    ),
]
RateOption = Annotated[
    float | None, typer.Option("--learning-rate", help="Step size of the adapters.", rich_help_panel="Training")
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--lr-scheduler", help="How learning rates go on: constant, cosine, linear, ...", rich_help_panel="Training"
    ),
]
RankOption = Annotated[int | None, typer.Option("--rank", help="Rank of the adapters.", rich_help_panel="Training")]
AuxiliaryOption = Annotated[
    int | None,
    typer.Option(
        "--aux", help="Pictures of the class, drawn by the base, to learn beside.", rich_help_panel="Pictures"
    ),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="Seed of everything random.", rich_help_panel="Training")
]
FlipOption = Annotated[
    bool, typer.Option("--flip", help="Learn from the mirrored pictures too.", rich_help_panel="Pictures")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Another setting of the method.",
        metavar="NAME=VALUE",
        rich_help_panel="Training",
        autocompletion=completion.method_settings,
    ),
]
PreviewOption = Annotated[
    bool, typer.Option("--preview", help=f"Draw a grid now and then, in {PREVIEW_FOLDER}.", rich_help_panel="Output")
]
FoldOption = Annotated[bool, typer.Option("--fold", help="Fold when it is learned.", rich_help_panel="Store")]
CheckpointingOption = Annotated[
    bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.", rich_help_panel="Memory")
]
AccumulationOption = Annotated[
    int | None,
    typer.Option("--gradient-accumulation-steps", help="Portions of --batch-size in a step.", rich_help_panel="Memory"),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        "--mixed-precision",
        help="bf16 (the default on a GPU, and on a CPU that is fast in it) or no.",
        rich_help_panel="Memory",
    ),
]
ResolutionOption = Annotated[
    int | None,
    typer.Option("--resolution", help="The base's own; pictures are made to fit anyway.", rich_help_panel="Pictures"),
]
LicenseOption = Annotated[
    str,
    typer.Option(
        "--license",
        help="Under what terms the pictures may be used; kept with the concept.",
        rich_help_panel="Pictures",
    ),
]
ConsentOption = Annotated[
    str, typer.Option("--consent", help="Who agreed to what; kept with the concept.", rich_help_panel="Pictures")
]


def learn(
    folder: FolderArgument,
    token: TokenOption,
    class_word: ClassOption = "",
    method: MethodOption = None,
    preset: PresetOption = None,
    steps: StepsOption = None,
    batch_size: BatchOption = None,
    learning_rate: RateOption = None,
    scheduler: SchedulerOption = None,
    rank: RankOption = None,
    auxiliary: AuxiliaryOption = None,
    seed: SeedOption = None,
    flip: FlipOption = False,
    more: SetOption = None,
    preview: PreviewOption = False,
    fold: FoldOption = False,
    skip_bad: SkipBadOption = False,
    first_frame: FirstFrameOption = False,
    follow_symlinks: SymlinksOption = False,
    gradient_checkpointing: CheckpointingOption = False,
    accumulation: AccumulationOption = None,
    mixed_precision: PrecisionOption = None,
    resolution: ResolutionOption = None,
    feature_extractor: ExtractorOption = None,
    license: LicenseOption = "",  # noqa: A002 - the option's name
    consent: ConsentOption = "",
    device: DeviceOption = "auto",
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Teach the model one concept from a folder of pictures, none of which is kept.

    The pictures are checked first. An interrupted run goes on when the same command comes again.
    """
    # Every option whose name is a field of the request, or of the usual settings of a training.
    request = _request(locals(), _settings(more or []))
    out = Output(json, quiet)
    if dry_run:
        _show_plan(store, request, out, device=device, preview=preview)
        return
    opened = _open(store, request, out, device)
    _learn(opened, request, out, device=device, wait=wait, preview=preview, fold=fold)


def _request(options: Mapping[str, Any], settings: Mapping[str, Any]) -> Request:
    """Make a request of the options of the same names; those that were not given leave the user's defaults."""
    from conceptctl.workflows.learn.request import Request

    usual = load_config().train
    train = {each.name for each in dataclasses.fields(usual)}
    own = {each.name for each in dataclasses.fields(Request)} - {"name", "train", "settings", "reference_samples"}
    return Request(
        name=options["token"],
        train=dataclasses.replace(usual, **{name: options[name] for name in train if options[name] is not None}),
        settings=settings,
        **{name: options[name] for name in own},
    )


def _show_plan(store: Path | None, request: Request, out: Output, *, device: str, preview: bool) -> None:
    from conceptctl.workflows.learn.plan import plan

    watch = Display(out, request.name, None).watch(preview)
    with _to_plan_with(store, request, out, device) as opened:
        planned = plan(opened, request, device=device, watch=watch)
    out.data(_plan_payload(planned), _plan_lines(planned), [planned.name])


def _learn(store: Store, request: Request, out: Output, *, device: str, wait: bool, preview: bool, fold: bool) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    from conceptctl.workflows.learn.run import learn as learn_concept

    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=20),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        # What a narrow terminal has no room for is the end of this.
        TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
    )
    console = Console(stderr=True)
    shown = console.is_terminal and not out.as_json and not out.quiet and not out.silent
    # Ten steps can take minutes: from half a minute, which rich looks at by itself, nothing could be estimated.
    bar = Progress(
        *columns, console=console, disable=not shown, transient=True, expand=True, speed_estimate_period=3600
    )
    with bar:
        display = Display(out, request.name, bar)
        learned = learn_concept(store, request, device=device, wait=wait, watch=display.watch(preview))
    if learned is None:
        # Another process of this run commits, and says so.
        return
    head = _folded(store, request, out, wait=wait) if fold else learned.generation
    payload = {
        "generation": head.seq,
        "concept": {"name": request.name, "token": f"V*{request.name}", "folded": fold},
        "plan": _plan_payload(learned.plan)["plan"],
        "seconds": round(learned.seconds, 1),
        "loss_curve": list(learned.record.loss_curve),
        "settings": dict(learned.record.settings),
        "previews": [str(path) for path in display.previews],
    }
    out.data(payload, _learned_lines(learned, head.seq, folded=fold), [request.name])


def _folded(store: Store, request: Request, out: Output, *, wait: bool) -> Generation:
    from conceptctl.workflows.fold import fold

    try:
        return fold(store, wait=wait).head
    except ConceptctlError as error:
        # The same command would find the concept taken.
        raise type(error)(f"learned V*{request.name}, but not folded: {error}", hint="conceptctl fold") from error
    except KeyboardInterrupt:
        out.say(f"learned V*{request.name}, but not folded; to fold it: conceptctl fold")
        raise


@contextmanager
def _to_plan_with(option: Path | None, request: Request, out: Output, device: str) -> Iterator[Store]:
    """Open the store; where `_open` would make one, make one that goes away again."""
    if not _is_first(option):
        yield open_store(option)
        return
    from conceptctl.workflows.init import POCKET, initialize

    _check_first(request, device)
    with TemporaryDirectory() as scratch:
        yield initialize(Path(scratch) / "store", POCKET).store
    out.say(f"there is no store yet: one would be made at {chosen_root(option)} on the bundled base")


def _is_first(option: Path | None) -> bool:
    """Whether there is nothing yet on the default path."""
    return option is None and not chosen_root(option).exists()


def _check_first(request: Request, device: str) -> None:
    """Refuse before a store is made."""
    from conceptctl.pocket.world.practice import SIZE
    from conceptctl.presets import shipped
    from conceptctl.workflows.init import POCKET
    from conceptctl.workflows.learn.images import check_pictures_for
    from conceptctl.workflows.learn.request import check

    preset = shipped()[POCKET]
    check(request, preset, device)
    check_pictures_for(SIZE, preset.learn, request)


def _open(option: Path | None, request: Request, out: Output, device: str) -> Store:
    """Open the store; on the default path, make one on the bundled base when there is none."""
    if _is_first(option):
        from conceptctl.workflows.init import POCKET, initialize

        if processes() > 1:
            raise NotFound("there is no store yet, and several processes would make one", hint="conceptctl init")
        _check_first(request, device)
        root = chosen_root(option)
        initialize(root, POCKET)
        out.say(
            f"made a store at {root} on the bundled base, which draws 64 x 64 pictures; "
            "for photographs: conceptctl init --base HUB_ID --store DIR"
        )
    return open_store(option)


def _settings(pairs: list[str]) -> dict[str, Any]:
    """Read `NAME=VALUE` settings; a value is a number where it looks like one.

    Raises:
        UsageError: One has no `=`.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {pair!r} is no NAME=VALUE", hint="--set rank=8")
        found[name] = text
        for kind in (float, int):
            try:
                found[name] = kind(text)
            except ValueError:
                continue
    return found


def _plan_payload(plan: Plan) -> dict[str, Any]:
    return {"plan": {**dataclasses.asdict(plan), "config": dict(plan.config), "preset": plan.as_preset()}}


def _plan_lines(plan: Plan) -> list[str]:
    lines = [
        f"would learn V*{plan.name} from {plan.pictures} pictures with {plan.method}, "
        f"{plan.config['steps']} steps on {plan.device} in {'bf16' if plan.precision == 'bf16' else 'fp32'}",
        *(f"prompt: {prompt}" for prompt in plan.prompts[:5]),
        f"beside {plan.auxiliary} pictures of a {plan.class_word}" if plan.auxiliary else "beside no other pictures",
        f"preset {plan.preset}"
        + (", but " + ", ".join(f"{name}={value}" for name, value in plan.differs.items()) if plan.differs else ""),
        "settings: " + ", ".join(f"{name}={value}" for name, value in plan.config.items()),
    ]
    lines += [f"note: {note}" for note in plan.notes]
    lines += [f"skipped: {refusal}" for refusal in plan.skipped]
    return lines


def _learned_lines(learned: LearnedConcept, generation: int, *, folded: bool) -> list[str]:
    record = learned.record
    curve = record.loss_curve
    size = next(each for each in learned.generation.concepts if each.name == record.name).blob.size
    lines = [
        f"learned V*{record.name} in {duration(learned.seconds)}: generation {generation}"
        f"{', folded' if folded else ''}, {size_text(size)}",
        f"loss {curve[0]:.4f} -> {curve[-1]:.4f}"
        + (f", mask density {100 * record.settings['density']:.0f} %" if "density" in record.settings else ""),
        f'next: conceptctl generate "a photo of V*{record.name}" -n 4',
    ]
    lines += [f"note: {note}" for note in learned.plan.notes]
    lines += [f"skipped: {refusal}" for refusal in learned.plan.skipped]
    return lines
