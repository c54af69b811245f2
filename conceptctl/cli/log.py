"""`conceptctl log`: the history."""

from typing import Annotated

import typer

from conceptctl.cli import completion
from conceptctl.cli.evaluations import Shown, evaluations_of
from conceptctl.cli.options import JsonOption, QuietOption, StoreOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import action_text, minute, next_text, open_store
from conceptctl.store.index import LogRow
from conceptctl.store.store import Store, unknown_concept
from conceptctl.workflows.concept_log import about
from conceptctl.workflows.evaluate.history import by_generation

EPILOG = epilog("conceptctl log", "conceptctl log alice", "conceptctl log --json", codes=(4, 5))

COLUMNS = ("generation", "id", "when", "what", "concepts")


def log(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A concept: only what happened to it, and how it fared.",
            metavar="NAME",
            autocompletion=completion.concepts,
        ),
    ] = None,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """List the generations, newest first: when, what was done, and to which concepts.

    With a name, only those that concerned that concept: also undos that took or brought it back, and what it was
    called before; beside each `eval`, what it found.
    """
    out = Output(json, quiet)
    opened = open_store(store)
    history = opened.log()
    if name is None:
        rows = [_row(row) for row in reversed(history)]
        head = opened.head()
        columns = (*COLUMNS[:-1], f"{head.base.noun}s")
        out.table({"generations": [vars(row) for row in reversed(history)]}, columns, rows)
        if len(history) == 1:
            out.say(next_text(head))
        return
    found = about(history, name)
    if not found.events:
        raise unknown_concept(name, opened.head())
    # One that was forgotten has a history still, and nothing else.
    kept = _kept(opened, found.now, history, out) if found.now else {}
    figures = {seq: each.figures for seq, each in kept.items()}
    events = found.events[::-1]
    payload = {
        "generations": [
            {**vars(each.row), "effect": each.effect, "figures": figures.get(each.row.seq)} for each in events
        ]
    }
    said = {seq: each.text for seq, each in kept.items()}
    shown = [(*_row(each.row)[:-1], each.effect or said.get(each.row.seq, "")) for each in events]
    out.table(payload, (*COLUMNS[:-1], "effect"), shown)


def _row(row: LogRow) -> tuple[str, ...]:
    what = action_text(row.verb, row.subject.split() or [_goal(row.seq, row.restores)])
    return str(row.seq), row.id[:7], minute(row.time), what, str(row.concepts)


def _goal(seq: int, restores: int) -> str:
    return "" if seq == restores else f"to {restores}"


def _kept(store: Store, name: str, history: list[LogRow], out: Output) -> dict[int, Shown]:
    """What each `eval` of a concept found, by the generation that it committed."""
    head = store.head()
    concept = head.concept(name)
    kept = evaluations_of(store, head, concept.uid, out.warn) if concept else []
    return by_generation(kept, [row.seq for row in history if row.verb == "eval"])
