"""`conceptctl log`: the history."""

from typing import Annotated

import typer

from conceptctl.cli.options import JsonOption, QuietOption, StoreOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import open_store
from conceptctl.store.index import LogRow
from conceptctl.store.store import Store
from conceptctl.workflows.evaluate.history import Kept, as_dict, by_generation, read_all, summary

EPILOG = epilog("conceptctl log", "conceptctl log alice", "conceptctl log --json", codes=(4, 5))

COLUMNS = ("generation", "id", "when", "verb", "what", "concepts")


def log(
    name: Annotated[str | None, typer.Argument(help="A concept: only what happened to it, and how it fared.")] = None,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """List the generations, newest first: when, what was done, and to which concepts.

    With a name, only those that were about that concept; beside each `eval`, what it found.
    """
    out = Output(json, quiet)
    opened = open_store(store)
    history = opened.log()
    if name is None:
        rows = [_row(row) for row in reversed(history)]
        out.table({"generations": [vars(row) for row in reversed(history)]}, COLUMNS, rows)
        return
    about = [row for row in reversed(history) if name in row.subject.split()]
    # One that was forgotten has a history still, and nothing else.
    kept = {} if about and opened.head().concept(name) is None else _kept(opened, name, history, out)
    figures = {seq: as_dict(each) for seq, each in kept.items()}
    payload = {"generations": [{**vars(row), "figures": figures.get(row.seq)} for row in about]}
    newest = kept[max(kept)] if kept else None
    said = {seq: summary(each, newest) for seq, each in kept.items() if newest}
    shown = [(*_row(row), said.get(row.seq, "")) for row in about]
    out.table(payload, (*COLUMNS, "figures"), shown)


def _row(row: LogRow) -> tuple[str, ...]:
    what = row.subject or _goal(row.seq, row.restores)
    return str(row.seq), row.id[:12], row.time, row.verb, what, str(row.concepts)


def _goal(seq: int, restores: int) -> str:
    return "" if seq == restores else f"to {restores}"


def _kept(store: Store, name: str, history: list[LogRow], out: Output) -> dict[int, Kept]:
    """What each `eval` of a concept found, by the generation that it committed."""
    uid = store.concept(name).uid
    kept = read_all(store.layout, store.head(), uid, warn=out.warn)
    return by_generation([each for _, each in kept], [row.seq for row in history if row.verb == "eval"])
