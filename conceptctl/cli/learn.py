"""`conceptctl learn`: teach the model one concept from a folder of pictures."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptctl.cli.options import (
    DryRunOption,
    JsonOption,
    QuietOption,
    StoreOption,
    WaitOption,
    epilog,
)
from conceptctl.cli.output import Output
from conceptctl.cli.stores import open_store, size_text
from conceptctl.config import load_config
from conceptctl.errors import ConceptctlError, UsageError
from conceptctl.store.layout import chosen_root
from conceptctl.store.store import Store

if TYPE_CHECKING:
    from PIL.Image import Image

    from conceptctl.diffusion.fit import Report
    from conceptctl.workflows.learn import Learned
    from conceptctl.workflows.lesson import Plan, Request, Watch

EPILOG = epilog(
    "conceptctl learn ./photos --token alice --class person",
    "conceptctl learn ./photos --token alice --class person --dry-run",
    "conceptctl learn ./falls --token falls --class waterfall --preview --fold",
    'conceptctl learn ./photos --token alice --license "all rights reserved" --consent "Alice, 2026-11-01"',
    codes=(2, 3, 4, 5, 6, 7, 9, 130, 143),
)
PREVIEW_FOLDER = Path("conceptctl-out")
_LINES = 10
"""How many lines of progress are printed where there is no terminal."""


def learn(
    folder: Annotated[Path, typer.Argument(help="Pictures of the one thing to learn.", metavar="DIR")],
    token: Annotated[str, typer.Option(help="Its name: V*NAME in prompts.", metavar="NAME")],
    class_word: Annotated[
        str, typer.Option("--class", help="What kind of thing it is: person, dog, waterfall.", metavar="WORD")
    ] = "",
    method: Annotated[str | None, typer.Option(help="stamina, ti++ or lora.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", "--max-train-steps", help="Optimizer steps.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "--train-batch-size", help="The concept's pictures in a step.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Step size of the adapters.")] = None,
    scheduler: Annotated[
        str | None, typer.Option("--lr-scheduler", help="How learning rates go on: constant or cosine.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the adapters.")] = None,
    auxiliary: Annotated[
        int | None, typer.Option("--aux", help="Pictures of the class, drawn by the base, to learn beside.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Learn from the mirrored pictures too.")] = False,
    more: Annotated[
        list[str] | None, typer.Option("--set", help="Another setting of the method.", metavar="NAME=VALUE")
    ] = None,
    preview: Annotated[bool, typer.Option("--preview", help=f"Draw a grid now and then, in {PREVIEW_FOLDER}.")] = False,
    fold: Annotated[bool, typer.Option("--fold", help="Fold when it is learned.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without the pictures that are refused.")] = False,
    first_frame: Annotated[bool, typer.Option("--first-frame", help="Take the first frame of animations.")] = False,
    follow_symlinks: Annotated[bool, typer.Option("--follow-symlinks", help="Read what links point to.")] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = False,
    accumulation: Annotated[
        int | None, typer.Option("--gradient-accumulation-steps", help="Portions of --batch-size in a step.")
    ] = None,
    mixed_precision: Annotated[
        str | None, typer.Option(help="bf16 (the default on a GPU, and on a CPU that is fast in it) or no.")
    ] = None,
    resolution: Annotated[int | None, typer.Option(help="The base's own; pictures are made to fit anyway.")] = None,
    feature_extractor: Annotated[
        str | None, typer.Option(help="A CLIP model: a folder or a hub id.", metavar="FOLDER")
    ] = None,
    license: Annotated[  # noqa: A002 - the option's name
        str, typer.Option(help="Under what terms the pictures may be used; kept with the concept.")
    ] = "",
    consent: Annotated[str, typer.Option(help="Who agreed to what; kept with the concept.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Teach the model one concept from a folder of pictures, none of which is kept.

    The pictures are checked first. An interrupted run goes on when the same command comes again.
    """
    out = Output(json, quiet)
    defaults = load_config().train
    given: dict[str, Any] = {"method": method, "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    given |= {"rank": rank, "scheduler": scheduler, "accumulation": accumulation, "seed": seed}
    from conceptctl.workflows import lesson

    request = lesson.Request(
        folder=folder,
        name=token,
        class_word=class_word,
        train=dataclasses.replace(defaults, **{name: value for name, value in given.items() if value is not None}),
        auxiliary=auxiliary,
        feature_extractor=feature_extractor,
        settings=_settings(more or []),
        flip=flip,
        gradient_checkpointing=gradient_checkpointing,
        mixed_precision=mixed_precision,
        resolution=resolution,
        skip_bad=skip_bad,
        first_frame=first_frame,
        follow_symlinks=follow_symlinks,
        license=license,
        consent=consent,
    )
    if dry_run:
        watch = _Display(out, request.name, None).watch(preview)
        with _to_plan_with(store, request, out, device) as opened:
            planned = lesson.plan(opened, request, device=device, watch=watch)
        out.data(_plan_payload(planned), _plan_lines(planned), [planned.name])
        return
    _learn(_open(store, request, out, device), request, out, device=device, wait=wait, preview=preview, fold=fold)


def _learn(store: Store, request: Request, out: Output, *, device: str, wait: bool, preview: bool, fold: bool) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    from conceptctl.workflows import learn as workflow

    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=20),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        # What a narrow terminal has no room for is the end of this.
        TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
    )
    console = Console(stderr=True)
    shown = console.is_terminal and not out.as_json and not out.quiet
    # Ten steps can take minutes: from half a minute, which rich looks at by itself, nothing could be estimated.
    bar = Progress(
        *columns, console=console, disable=not shown, transient=True, expand=True, speed_estimate_period=3600
    )
    with bar:
        display = _Display(out, request.name, bar)
        learned = workflow.learn(store, request, device=device, wait=wait, watch=display.watch(preview))
    head = learned.generation
    if fold:
        from conceptctl.workflows.fold import fold as fold_workflow

        try:
            head = fold_workflow(store, wait=wait).head
        except ConceptctlError as error:
            # The same command would find the concept taken.
            raise type(error)(f"learned V*{request.name}, but not folded: {error}", hint="conceptctl fold") from error
        except KeyboardInterrupt:
            out.say(f"learned V*{request.name}, but not folded; to fold it: conceptctl fold")
            raise
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


@contextmanager
def _to_plan_with(option: Path | None, request: Request, out: Output, device: str) -> Iterator[Store]:
    """Open the store; where `_open` would make one, make one that goes away again."""
    if not _is_first(option):
        yield open_store(option)
        return
    from conceptctl.workflows.init import initialize

    _check_first(request, device)
    with TemporaryDirectory() as scratch:
        yield initialize(Path(scratch) / "store", "pocket").store
    out.say(f"there is no store yet: one would be made at {chosen_root(option)} on the bundled base")


def _is_first(option: Path | None) -> bool:
    """Whether there is nothing yet on the default path."""
    return option is None and not chosen_root(option).exists()


def _check_first(request: Request, device: str) -> None:
    """Refuse before a store is made."""
    from conceptctl.workflows.lesson import check, check_pictures_for_pocket

    check(request, device)
    check_pictures_for_pocket(request)


def _open(option: Path | None, request: Request, out: Output, device: str) -> Store:
    """Open the store; on the default path, make one on the bundled base when there is none."""
    if _is_first(option):
        from conceptctl.workflows.init import initialize

        _check_first(request, device)
        root = chosen_root(option)
        initialize(root, "pocket")
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


class _Display:
    """Shows how learning goes: a bar on a terminal, a few lines elsewhere."""

    def __init__(self, out: Output, name: str, bar: Any) -> None:
        self.out, self.name, self.bar = out, name, bar
        self.task: Any = None
        self.total = 0
        self.done = 0
        self.previews: list[Path] = []
        self.estimated = False

    def watch(self, preview: bool) -> Watch:
        """What the workflow tells this display."""
        from conceptctl.workflows.lesson import Watch

        return Watch(
            stage=self.stage,
            advance=self.advance,
            report=self.report,
            warn=self.out.warn,
            preview=self.preview if preview else None,
        )

    def stage(self, what: str, total: int) -> None:
        """Begin a stage."""
        self.total, self.done = total, 0
        if self.bar is None or self.bar.disable:
            self.out.say(f"{what} ..." if not total else f"{what}: {total} to do")
            return
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task(what, total=total or None, note="")

    def advance(self, done: int) -> None:
        """Some units more are done."""
        self.done += done
        if self.task is not None:
            self.bar.update(self.task, completed=self.done)

    def report(self, report: Report) -> None:
        """Show losses and measures."""
        begun = self.done
        self.done = report.step
        parts = [f"{name} {value:.4f}" for name, value in report.losses.items()]
        # Behind the loss itself: its parts may not be seen.
        parts[1:1] = [f"{name} {100 * value:.0f} %" for name, value in report.measures.items() if name == "density"]
        note = "  ".join(parts)
        if self.task is not None:
            self.bar.update(self.task, completed=self.done, note=note)
            return
        if not self.estimated:
            left = report.seconds / max(1, report.step - begun) * (self.total - report.step)
            self.out.say(f"about {duration(left)} left")
            self.estimated = True
        elif report.step * _LINES // self.total > begun * _LINES // self.total:
            self.out.say(f"step {report.step} of {self.total}  {note}")

    def preview(self, step: int, pictures: list[Image]) -> None:
        """Write a grid."""
        from conceptctl.workflows.generate import contact_sheet, made_by_a_model

        stamp = time.strftime("%Y%m%d-%H%M%S")
        path = PREVIEW_FOLDER / f"{self.name}-step-{step}-{stamp}.png"
        try:
            PREVIEW_FOLDER.mkdir(parents=True, exist_ok=True)
            contact_sheet(pictures).save(path, pnginfo=made_by_a_model())
        except OSError as error:
            # Hours of training are worth more than a picture of them.
            self.out.warn(f"no preview at {path}: {error.strerror or error}")
            return
        self.previews.append(path)
        self.out.say(f"preview: {path}")


def duration(seconds: float) -> str:
    """Say a time for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _plan_payload(plan: Plan) -> dict[str, Any]:
    return {"plan": {**dataclasses.asdict(plan), "config": dict(plan.config)}}


def _plan_lines(plan: Plan) -> list[str]:
    lines = [
        f"would learn V*{plan.name} from {plan.pictures} pictures with {plan.method}, "
        f"{plan.config['steps']} steps on {plan.device} in {'bf16' if plan.precision == 'bf16' else 'fp32'}",
        *(f"prompt: {prompt}" for prompt in plan.prompts[:5]),
        f"beside {plan.auxiliary} pictures of a {plan.class_word}" if plan.auxiliary else "beside no other pictures",
        "settings: " + ", ".join(f"{name}={value}" for name, value in plan.config.items()),
    ]
    lines += [f"note: {note}" for note in plan.notes]
    lines += [f"skipped: {refusal}" for refusal in plan.skipped]
    return lines


def _learned_lines(learned: Learned, generation: int, *, folded: bool) -> list[str]:
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
