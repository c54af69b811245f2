"""`conceptctl eval`: measure how every concept fares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptctl.cli import completion
from conceptctl.cli.eval_classes import eval_classes
from conceptctl.cli.options import (
    OUTPUT,
    DeviceOption,
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
from conceptctl.cli.stores import classifier_at, open_store
from conceptctl.errors import UsageError

if TYPE_CHECKING:
    from conceptctl.workflows.evaluate.evaluation import Evaluation, Measured, Parameters, Watch

EPILOG = epilog(
    "conceptctl eval ./held-out --report report.html",
    "conceptctl eval --images alice=./alice-held-out -n 16",
    codes=(2, 3, 4, 5, 6, 7, 9),
)
SHOWN = {"closeness": "closeness", "A_mmd": "A_mmd", "F_mmd": "F_mmd", "P_mmd": "P_mmd", "BwT_mmd": "BwT_mmd",
         "kid": "KID", "clip_i2i": "CLIP I2I", "clip_t2i": "CLIP T2I", "noise_floor": "noise floor",
         "diversity": "diversity"}  # fmt: skip
"""Columns of the full table."""
FolderArgument = Annotated[
    Path | None,
    typer.Argument(help="A folder of held-out pictures for each concept, or class: DIR/NAME/*.png.", metavar="DIR"),
]
ImagesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--images",
        help="A folder for one concept; repeatable.",
        metavar="NAME=DIR",
        autocompletion=completion.concepts_and_folders,
    ),
]


def evaluate(
    context: typer.Context,
    folder: FolderArgument = None,
    images: ImagesOption = None,
    count: Annotated[
        int | None,
        typer.Option("-n", "--per-concept", help="Pictures drawn of each; as many as there are reference samples."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", help="Also write one HTML file with pictures.", metavar="FILE", rich_help_panel=OUTPUT
        ),
    ] = None,
    feature_extractor: ExtractorOption = None,
    skip_bad: SkipBadOption = False,
    first_frame: FirstFrameOption = False,
    follow_symlinks: SymlinksOption = False,
    full: Annotated[
        bool, typer.Option("--full", help="Print every figure, and how it was measured.", rich_help_panel=OUTPUT)
    ] = False,
    device: DeviceOption = "auto",
    wait: WaitOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how every concept fares: its quality, what was forgotten, and how well it was learned.

    Where classes are told apart: the accuracy of every task and class, and what was forgotten.
    """
    out = Output(json, quiet)
    if of_classes := classifier_at(store):
        eval_classes(context, of_classes, out)
        return
    pairs = list(map(_pair, images or []))
    named = dict(pairs)
    if twice := [name for name in named if sum(name == other for other, _ in pairs) > 1]:
        raise UsageError(f"--images names {twice[0]} twice", hint="one folder a concept")
    if folder is None and not named:
        raise UsageError("nothing to compare with", hint="conceptctl eval DIR, or --images NAME=DIR")
    opened = open_store(store)
    from conceptctl.workflows.evaluate.evaluation import Request
    from conceptctl.workflows.evaluate.run import evaluate

    with out.progress() as bar:
        request = Request(
            folder=folder,
            images=named,
            count=count,
            feature_extractor=feature_extractor,
            skip_bad=skip_bad,
            first_frame=first_frame,
            follow_symlinks=follow_symlinks,
            report=report,
        )
        found = evaluate(opened, request, device=device, wait=wait, watch=_watch(out, bar))
    _show(out, found, full=full)


def _pair(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise UsageError(f"--images takes NAME=DIR, not {text!r}")
    return name, Path(folder)


def _watch(out: Output, bar: Callable[[str], Callable[[int, int], None]]) -> Watch:
    """Tell a bar what is going on: one for each stage, with its count."""
    from conceptctl.workflows.evaluate.evaluation import Watch

    update: Callable[[int, int], None] | None = None
    done = total = 0

    def stage(what: str, of: int) -> None:
        nonlocal update, done, total
        if update:
            # One whose count was not reached is over too.
            update(total, total)
        update, done, total = bar(what), 0, of
        update(0, of)

    def advance(more: int) -> None:
        nonlocal done
        done += more
        if update:
            update(done, total)

    return Watch(stage=stage, advance=advance, warn=out.warn)


def _show(out: Output, found: Evaluation, *, full: bool) -> None:
    from conceptctl.workflows.evaluate.tables import notes

    if full or out.as_json:
        for note in notes(found):
            out.warn(note)
    if full:
        _show_figures(out, found)
    else:
        columns = ("concept", "pictures", "quality", "kept", "verdict")
        out.table(payload(found), columns, [_row(each) for each in found.measured])
        out.say("pictures: drawn/held-out; alike: so many look like the held-out ones; --full has the figures")
    if found.report:
        out.say(f"report: {found.report}")


def _row(each: Measured) -> tuple[str, ...]:
    """What matters of a concept, in few words: how many pictures look like it, and what follows."""
    kept, said = each.kept, each.kept.verdict
    quality = "–" if said["like"] is None else f"{said['like']}/{kept.drawn} alike"
    return each.name, f"{kept.drawn}/{kept.heldout}", quality, _KEPT[said["kept"]], said["text"]


_KEPT = {True: "yes", False: "no", None: "–"}


def _show_figures(out: Output, found: Evaluation) -> None:
    from conceptctl.workflows.evaluate.tables import kernel_text, number

    rows = [
        (
            each.name,
            str(each.kept.drawn),
            str(each.kept.heldout),
            *(number(each.kept.figures.get(key)) for key in SHOWN),
            *_parameters(each.parameters),
            each.kept.verdict["text"],
        )
        for each in found.measured
    ]
    mean = ("average", "", "", *(number(found.averages[key]) for key in SHOWN), *_parameters(found.parameters), "")
    columns = ("concept", "drawn", "held-out", *SHOWN.values(), "N_param trained", "stored", "verdict")
    out.table(payload(found), columns, [*rows, mean] if found.alike and not out.quiet else rows)
    kept = found.measured[0].kept
    out.say(f"kernel: {kernel_text(kept.kernel)}")
    out.say(f"features: CLIP {kept.extractor['name']}, sha256 {kept.extractor['sha256']}")
    out.say("F_mmd and BwT_mmd leave out the concept that was learned last: nothing came after it")
    out.say(
        f"N_param, in % of the U-Net: trained for a concept ({number(found.parameters.trained_in_all)} with the "
        "token), and kept changed, in the last line by all of them together"
    )


def _parameters(parameters: Parameters) -> tuple[str, str]:
    from conceptctl.workflows.evaluate.tables import number

    return number(parameters.trained), number(parameters.stored)


def payload(found: Evaluation) -> dict[str, Any]:
    """Return everything that was found, as `--json` prints it."""
    from conceptctl.workflows.evaluate.figures import CROSS_CHECK

    kept = found.measured[0].kept
    first = {step.uid: step.drift for step in found.steps}
    return {
        "generation": found.head.seq,
        "committed": found.committed,
        "kernel": dict(kept.kernel),
        "extractor": dict(kept.extractor),
        **found.averages,
        "rbf": {"sigma": CROSS_CHECK.sigma, **found.rbf},
        "n_param": vars(found.parameters),
        "concepts": [_concept(each, first[each.uid]) for each in found.measured],
        "left_out": list(found.left_out),
        "report": str(found.report) if found.report else None,
    }


def _concept(each: Measured, drift: Any) -> dict[str, Any]:
    from conceptctl.workflows.evaluate.events import is_kept

    kept = each.kept
    return {
        "name": each.name,
        "class": each.class_word,
        "last": kept.last,
        "drawn": kept.drawn,
        "heldout": kept.heldout,
        "prompt": kept.prompt,
        "steps": kept.steps,
        "guidance": kept.guidance,
        "after_learning": kept.after_learning,
        **kept.figures,
        "kept": is_kept(kept),
        "verdict": dict(kept.verdict),
        "rbf": dict(kept.rbf),
        "n_param": vars(each.parameters),
        "changed_first": drift.first_time if drift else None,
        "distance": drift.distance if drift else None,
    }
