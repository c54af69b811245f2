"""What became of concepts when something else than learning changed the model: a forget, an import, a compaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from conceptctl.store.index import LogRow
from conceptctl.workflows.evaluate.history import Kept

VERBS = ("forget", "purge", "import", "compact")


@dataclass(frozen=True)
class Event:
    """One change of the model, and what the evaluation after it says.

    Attributes:
        generation: What it made.
        what: The verb and its names.
        measured: The generation with which the evaluation drew; None where none did before the next change.
        kept: Concepts that look as they did just after learning, by name.
        changed: Those that do not.
        unknown: Those of which it cannot be said.
    """

    generation: int
    what: str
    measured: int | None
    kept: tuple[str, ...]
    changed: tuple[str, ...]
    unknown: tuple[str, ...]


def is_kept(kept: Kept) -> bool | None:
    """Whether a concept looks as it did just after learning: F_mmd is no more than no difference at all looks like.

    None where either figure is missing.
    """
    forgetting, floor = kept.figures.get("F_mmd"), kept.figures.get("noise_floor")
    return None if forgetting is None or floor is None else forgetting <= floor


def events(
    log: Iterable[LogRow], runs: Mapping[int, Mapping[str, Kept]], names: Mapping[str, str]
) -> tuple[Event, ...]:
    """Find what every change left.

    Args:
        log: The history, in any order.
        runs: Evaluations by the generation that drew the pictures, and by the concept's uid.
        names: Of the concepts that are told of, by uid.

    Returns:
        The changes in order; each with the first evaluation of what it made, before anything else changed it.
    """
    changes = sorted((row for row in log if row.verb in (*VERBS, "undo", "learn")), key=lambda row: row.seq)
    found = []
    for index, row in enumerate(changes):
        if row.verb not in VERBS:
            continue
        end = changes[index + 1].seq if index + 1 < len(changes) else None
        seq = next((each for each in sorted(runs) if each >= row.seq and (end is None or each < end)), None)
        verdicts = {} if seq is None else {names[uid]: is_kept(kept) for uid, kept in runs[seq].items() if uid in names}
        by_verdict = {
            which: tuple(name for name, verdict in verdicts.items() if verdict is which)
            for which in (True, False, None)
        }
        what = f"{row.verb} {row.subject}".strip()
        found.append(Event(row.seq, what, seq, by_verdict[True], by_verdict[False], by_verdict[None]))
    return tuple(found)
