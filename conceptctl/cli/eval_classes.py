"""`conceptctl eval` in a store that tells classes apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from conceptctl.cli.output import Output
from conceptctl.cli.stores import check_meaningful, listed
from conceptctl.errors import UsageError
from conceptctl.store.store import Store
from conceptctl.wording import count

if TYPE_CHECKING:
    from conceptctl.workflows.classification.evaluate import Evaluation, TestedTask

_MEANINGFUL = {
    "folder", "skip_bad", "first_frame", "follow_symlinks", "full", "device", "wait", "store", "json", "quiet",
}  # fmt: skip


def eval_classes(context: typer.Context, store: Store, out: Output) -> None:
    """Test what was learned, by the parameters of the command.

    Raises:
        UsageError: A parameter that means something to models that draw alone, or no folder.
    """
    from conceptctl.workflows.classification.evaluate import evaluate
    from conceptctl.workflows.classification.pictures import Rules

    check_meaningful(context, _MEANINGFUL, "conceptctl eval DIR")
    options = context.params
    if options["folder"] is None:
        raise UsageError("missing DIR", hint="conceptctl eval DIR, with a folder of test pictures for each class")
    with out.progress() as shown:
        found = evaluate(
            store,
            Path(options["folder"]),
            rules=Rules(options["skip_bad"], options["first_frame"], options["follow_symlinks"]),
            device=options["device"],
            wait=options["wait"],
            progress=shown("looking at the pictures of classes"),
        )
    _show(out, found)


def _show(out: Output, found: Evaluation) -> None:
    for each in found.skipped:
        out.warn(f"skipped: {each}")
    if found.without:
        out.warn(f"no pictures of {count(len(found.without), 'class', 'classes')}: {listed(found.without)}")
    if found.strange:
        out.warn(f"not learned, and left out: {listed(found.strange)}")
    rows = [row for each in found.tasks for row in _rows(each)]
    pictures = sum(sum(each.tested.pictures) for each in found.tasks)
    average = ("average over tasks", "", str(pictures), _percent(found.average_accuracy), _percent(found.forgetting))
    columns = ("task", "class", "pictures", "accuracy %", "forgetting %")
    names = [(each.record.name,) for each in found.tasks]
    out.table(_payload(found), columns, names if out.quiet else [*rows, average])
    out.say(f"each picture was taken for any of {count(found.seen, 'class', 'classes')}; kept for later comparisons")


def _rows(each: TestedTask) -> list[tuple[str, ...]]:
    """A task's line, and one for each of its classes."""
    tested, name = each.tested, each.record.name
    whole = (name, "", str(sum(tested.pictures)), _percent(tested.accuracy), _percent(each.forgetting))
    classes = zip(each.record.classes, tested.pictures, tested.correct, strict=True)
    return [
        whole,
        *((name, label, str(pictures), _percent(correct / pictures), "") for label, pictures, correct in classes
          if pictures),
    ]  # fmt: skip


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _payload(found: Evaluation) -> dict[str, Any]:
    return {
        "generation": found.head.seq,
        "committed": found.committed,
        "classes_seen": found.seen,
        "average_accuracy": found.average_accuracy,
        "accuracy": found.accuracy,
        "forgetting": found.forgetting,
        "tasks": [_task(each) for each in found.tasks],
        "left_out": list(found.without),
        "not_learned": list(found.strange),
    }


def _task(each: TestedTask) -> dict[str, Any]:
    tested = each.tested
    return {
        "name": each.record.name,
        "last": tested.last,
        "pictures": sum(tested.pictures),
        "accuracy": tested.accuracy,
        "best": each.best,
        "forgetting": each.forgetting,
        "classes": [
            {"class": name, "pictures": pictures, "accuracy": correct / pictures if pictures else None}
            for name, pictures, correct in zip(each.record.classes, tested.pictures, tested.correct, strict=True)
        ],
    }
