"""`conceptctl learn`: teach the model one concept from a folder of pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from conceptctl.cli.learn_classes import learn_classes
from conceptctl.cli.learn_display import Display
from conceptctl.cli.learn_options import (
    AccumulationOption,
    AuxiliaryOption,
    BatchFileOption,
    BatchOption,
    CheckpointingOption,
    ClassOption,
    ConsentOption,
    EpochsOption,
    FlipOption,
    FolderArgument,
    FoldOption,
    FullOption,
    LicenseOption,
    LogOption,
    LowVramOption,
    MethodOption,
    MicroBatchOption,
    MostStepsOption,
    PrecisionOption,
    PresetOption,
    PreviewOption,
    RankOption,
    RateOption,
    ReplaceOption,
    ResolutionOption,
    SampleEveryOption,
    SamplePromptsOption,
    SchedulerOption,
    SeedOption,
    SetOption,
    StepsOption,
    TokenOption,
)
from conceptctl.cli.learn_run import taught
from conceptctl.cli.learn_stores import store_to_learn_in, store_to_plan_with
from conceptctl.cli.learn_text import learned_lines, learned_payload, plan_lines, plan_payload, settings_in
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
from conceptctl.cli.stores import classifier_at
from conceptctl.config import load_config
from conceptctl.errors import UsageError
from conceptctl.store.store import Store

if TYPE_CHECKING:
    from conceptctl.workflows.learn.batch import Entry
    from conceptctl.workflows.learn.request import Request

EPILOG = epilog(
    "conceptctl learn ./photos --token alice --class person",
    "conceptctl learn ./photos --token alice --class person --dry-run",
    'conceptctl learn ./falls --token falls --class waterfall --sample-prompt "V*falls at night" --fold',
    "conceptctl learn --batch runs.toml",
    "conceptctl learn ./animals --method c-lora --epochs 12 --store ./animals.store",
    'conceptctl learn ./photos --token alice --license "all rights reserved" --consent "Alice, 2026-11-01"',
    codes=(2, 3, 4, 5, 6, 7, 9, 130, 143),
)

_PATHS = ("folder", "log_to")


def learn(
    context: typer.Context,
    folder: FolderArgument = None,
    token: TokenOption = None,
    class_word: ClassOption = "",
    method: MethodOption = None,
    preset: PresetOption = None,
    steps: StepsOption = None,
    epochs: EpochsOption = None,
    max_train_steps: MostStepsOption = None,
    batch_size: BatchOption = None,
    learning_rate: RateOption = None,
    scheduler: SchedulerOption = None,
    rank: RankOption = None,
    auxiliary: AuxiliaryOption = None,
    seed: SeedOption = None,
    flip: FlipOption = False,
    more: SetOption = None,
    preview: PreviewOption = False,
    sample_prompts: SamplePromptsOption = None,
    sample_every: SampleEveryOption = None,
    log_to: LogOption = None,
    fold: FoldOption = False,
    replace: ReplaceOption = False,
    batch: BatchFileOption = None,
    skip_bad: SkipBadOption = False,
    first_frame: FirstFrameOption = False,
    follow_symlinks: SymlinksOption = False,
    low_vram: LowVramOption = False,
    micro_batch: MicroBatchOption = None,
    gradient_checkpointing: CheckpointingOption = False,
    accumulation: AccumulationOption = None,
    mixed_precision: PrecisionOption = None,
    resolution: ResolutionOption = None,
    feature_extractor: ExtractorOption = None,
    license: LicenseOption = "",  # noqa: A002 - the option's name
    consent: ConsentOption = "",
    device: DeviceOption = "auto",
    dry_run: DryRunOption = False,
    full: FullOption = False,
    wait: WaitOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Teach the model one concept from a folder of pictures, none of which is kept.

    Where classes are told apart, a folder for each class is learned, all of them as one task. Pictures are checked
    first. An interrupted run goes on when the same command comes again.
    """
    out = Output(json, quiet)
    if of_classes := classifier_at(store):
        learn_classes(context, of_classes, out)
    elif batch is not None:
        _learn_several(context, batch, out)
    elif dry_run:
        _show_plan(store, _entry(context.params), out, full=full)
    else:
        entry = _entry(context.params)
        _learn(store_to_learn_in(store, [entry], out), entry, out, wait=wait)


def _learn_several(context: typer.Context, batch: Path, out: Output) -> None:
    from conceptctl.cli.learn_batch import learn_batch

    _check_alone(context)
    said = context.params
    learn_batch(context, batch, _entry, out, store=said["store"], wait=said["wait"], dry_run=said["dry_run"])


def _check_alone(context: typer.Context) -> None:
    """Refuse what stands beside a file that has it for each concept.

    Raises:
        UsageError: Something does.
    """
    from conceptctl.cli.learn_batch import OF_THE_COMMAND

    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is not None and source.name == "COMMANDLINE" and parameter.name not in OF_THE_COMMAND:
            raise UsageError(
                f"{parameter.opts[0]} does not go with --batch",
                hint="it stands in the file: in [defaults], or in a concept's own table",
            )


def _entry(options: Mapping[str, Any]) -> Entry:
    """What is learned, by the parameters of the command."""
    from conceptctl.workflows.learn.batch import Entry

    if options["epochs"] is not None:
        raise UsageError("--epochs is of classes that are told apart, and this store draws", hint="--steps 500")
    for name, shown in (("folder", "DIR"), ("token", "--token")):
        if options[name] is None:
            raise UsageError(f"missing {shown}", hint="conceptctl learn DIR --token NAME --class WORD, or --batch FILE")
    return Entry(_request(options, settings_in(options["more"] or [])), options["device"], options["fold"])


def _request(options: Mapping[str, Any], settings: Mapping[str, Any]) -> Request:
    """Make a request of the options of the same names; those that were not given leave the user's defaults."""
    from conceptctl.workflows.learn.request import Request

    usual = load_config().train
    train = {each.name for each in dataclasses.fields(usual)}
    own = {each.name for each in dataclasses.fields(Request)} & set(options) - {"sample_prompts", *_PATHS}
    # Those of a command line that was never called are text.
    paths: dict[str, Any] = {name: Path(options[name]) for name in _PATHS if options[name] is not None}
    return Request(
        name=options["token"],
        **paths,
        sample_prompts=tuple(options["sample_prompts"] or ()),
        train=dataclasses.replace(usual, **{name: options[name] for name in train if options[name] is not None}),
        settings=settings,
        **{name: options[name] for name in own},
    )


def _show_plan(store: Path | None, entry: Entry, out: Output, *, full: bool) -> None:
    from conceptctl.presets import preset_of
    from conceptctl.workflows.learn.estimate import estimate
    from conceptctl.workflows.learn.plan import plan

    request = entry.request
    with store_to_plan_with(store, [entry], out) as opened, out.progress() as shown:
        planned = plan(opened, request, device=entry.device, watch=Display(out, shown).watch())
        expected, preset = estimate(opened, planned, replaces=request.replace), preset_of(opened.head().base)
    slow = (
        preset.description if preset.base else "hours" if preset.learn.slow_on_cpu and planned.device == "cpu" else ""
    )
    lines = plan_lines(planned, expected, replaces=request.replace, slow=slow, full=full)
    out.data(plan_payload(planned, expected), lines, [planned.name])
    if not full:
        out.say("every setting: --full; to learn it, the same command without --dry-run")


def _learn(store: Store, entry: Entry, out: Output, *, wait: bool) -> None:
    made = taught(store, entry, out, wait=wait)
    if made is None:
        # Another process of this run commits, and says so.
        return
    learned, head, samples = made
    payload = {**learned_payload(learned, head.seq, folded=entry.fold), "samples": samples}
    out.data(payload, learned_lines(learned, head.seq, folded=entry.fold), [entry.request.name])
