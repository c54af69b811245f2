"""`conceptctl learn` in a store that tells classes apart: a folder for each class, learned as one task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from conceptctl.cli.learn_run import folded
from conceptctl.cli.learn_text import duration, fall, listed_settings, settings_in
from conceptctl.cli.output import Output
from conceptctl.cli.stores import check_meaningful, listed, size_text
from conceptctl.errors import UsageError
from conceptctl.images.class_folders import MOST_NAMED
from conceptctl.learning.launch import processes
from conceptctl.store.store import Store
from conceptctl.wording import count

if TYPE_CHECKING:
    from conceptctl.cli.progress import ProgressLine
    from conceptctl.workflows.classification.learn import LearnedTask, Plan, Request, Watch

_SETTINGS = ("batch_size", "learning_rate", "scheduler", "rank", "accumulation")
"""Options that are settings of the method."""
_MEANINGFUL = {
    "folder", "token", "method", "epochs", "seed", "more", "fold", "skip_bad", "first_frame", "follow_symlinks",
    "license", "consent", "device", "dry_run", "full", "wait", "store", "json", "quiet", *_SETTINGS,
}  # fmt: skip


def learn_classes(context: typer.Context, store: Store, out: Output) -> None:
    """Learn a task, or show what would be learned, by the parameters of the command.

    Raises:
        UsageError: A parameter that means something to models that draw alone, or no folder.
    """
    from conceptctl.workflows.classification import learn as workflow

    check_meaningful(context, _MEANINGFUL, "conceptctl learn DIR --method NAME --epochs N --set NAME=VALUE")
    options = context.params
    if processes() > 1:
        raise UsageError("a task is learned by one process", hint="conceptctl learn DIR, without accelerate launch")
    request, device = _request(options), options["device"]
    with out.progress() as shown:
        watch = _watch(shown)
        if options["dry_run"]:
            planned = workflow.plan(store, request, device=device, watch=watch)
            lines = _plan_lines(planned, full=options["full"])
            out.data({"plan": _plan_payload(planned)}, lines, [planned.name])
            return
        learned = workflow.learn(store, request, device=device, wait=options["wait"], watch=watch)
    fold = options["fold"]
    what = f"the task {learned.plan.name}"
    seq = folded(store, what, out, wait=options["wait"]).seq if fold else learned.generation.seq
    out.data(_payload(learned, seq, folded=fold), _lines(learned, seq, folded=fold), [learned.plan.name])


def _request(options: Mapping[str, Any]) -> Request:
    from conceptctl.workflows.classification.learn import Request
    from conceptctl.workflows.classification.pictures import Rules

    if options["folder"] is None:
        raise UsageError("missing DIR", hint="conceptctl learn DIR, with one folder for each class in it")
    given = {name: options[name] for name in _SETTINGS if options[name] is not None}
    return Request(
        folder=Path(options["folder"]),
        name=options["token"],
        method=options["method"],
        epochs=options["epochs"],
        seed=options["seed"] or 0,
        settings={**given, **settings_in(options["more"] or [])},
        rules=Rules(options["skip_bad"], options["first_frame"], options["follow_symlinks"]),
        license=options["license"],
        consent=options["consent"],
    )


def _watch(shown: ProgressLine) -> Watch:
    from conceptctl.workflows.classification.learn import Watch

    def begin(what: str, total: int) -> None:
        shown.stage(what, total)

    return Watch(stage=begin, done=shown.update)


def _plan_payload(planned: Plan) -> dict[str, Any]:
    return {
        **vars(planned),
        "classes": dict(planned.classes),
        "config": dict(planned.config),
        "differs": dict(planned.differs),
    }


def _plan_lines(planned: Plan, *, full: bool) -> list[str]:
    pictures = sum(planned.classes.values())
    facts = {
        "classes": listed([f"{name} ({number})" for name, number in planned.classes.items()]),
        "work": f"{count(planned.epochs, 'epoch')}: {count(planned.steps, 'step')} of "
        f"{count(planned.batch_size, 'picture')}",
        "on": planned.device,
        "preset": planned.preset + (f", but {listed_settings(planned.differs)}" if planned.differs else ""),
        **({"settings": listed_settings(planned.config)} if full else {}),
        **({"goes on": f"with an interrupted run, from step {planned.resumes}"} if planned.resumes else {}),
    }
    return [
        f"would learn the task {planned.name}, {count(len(planned.classes), 'class', 'classes')} from "
        f"{count(pictures, 'picture')}, with {planned.method}",
        *(f"  {name:<10}{text}" for name, text in facts.items()),
        *_beside(planned),
    ]


def _payload(learned: LearnedTask, generation: int, *, folded: bool) -> dict[str, Any]:
    record = learned.record
    return {
        "generation": generation,
        "task": {"name": record.name, "classes": list(record.classes), "folded": folded},
        "plan": _plan_payload(learned.plan),
        "steps": record.steps,
        "seconds": round(learned.seconds, 1),
        "loss_curve": list(record.loss_curve),
        "settings": dict(record.settings),
    }


def _lines(learned: LearnedTask, generation: int, *, folded: bool) -> list[str]:
    record, concepts = learned.record, learned.generation.concepts
    return [
        f"learned the task {record.name} in {duration(learned.seconds)} from {count(record.photos, 'picture')}: "
        f"{count(len(record.classes), 'class', 'classes')}; {count(len(concepts), 'task')} in the store now",
        f"generation {generation}, {size_text(concepts[-1].blob.size)}"
        + (", folded" if folded else "; conceptctl undo takes it back"),
        f"loss {fall(record.loss_curve)}",
        "next: conceptctl classify PICTURE; conceptctl eval DIR, with test pictures in a folder for each class",
        *_beside(learned.plan),
    ]


def _beside(planned: Plan) -> list[str]:
    """What else to say of pictures: the first few of many classes' notes."""
    said = [*(f"note: {note}" for note in planned.notes), *(f"skipped: {each}" for each in planned.skipped)]
    more = len(said) - MOST_NAMED
    return [*said[:MOST_NAMED], f"and {count(more, 'more note')}: --json has all"] if more > 0 else said
