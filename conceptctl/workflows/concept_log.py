"""What happened to one concept, read from the history's lines alone, so that a damaged manifest hides nothing."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from conceptctl.store.index import LOST, LogRow

Names = Mapping[str, tuple[int, bool]]
"""The concepts of a generation by name: in which generation each was added, and whether it is in the stored weights."""


@dataclass(frozen=True)
class Event:
    """A generation that concerned a concept, and what it did to it, where its verb does not say that."""

    row: LogRow
    effect: str


@dataclass(frozen=True)
class ConceptLog:
    """The events, oldest first, and what the concept is called now; "" where it is not there any more."""

    events: tuple[Event, ...]
    now: str


def about(history: Sequence[LogRow], name: str) -> ConceptLog:
    """Find what concerned the concepts that ever had a name: by that name, or by another that they had or got."""
    states = _states(history)
    meant = {key for state in states for each, (key, _) in state.items() if each == name}
    events = []
    for row, before, after in zip(history, [{}, *states], states, strict=False):
        effect = _effect(row, before, after, meant)
        if effect is not None:
            events.append(Event(row, effect))
    now = [each for each, (key, _) in states[-1].items() if key in meant]
    return ConceptLog(tuple(events), now[-1] if now else "")


def added_in(history: Sequence[LogRow], name: str) -> int:
    """Return the generation that added the concept that has a name now, by whatever name; 0 where none is known."""
    key, _ = _states(history)[-1].get(name, (0, False))
    return key


def came(history: Sequence[LogRow], name: str, after: int) -> int | None:
    """Return the first generation after another one that has a concept of a name; None where none has."""
    states = _states(history)
    return next((seq for seq in range(after + 1, len(states)) if name in states[seq]), None)


def _states(history: Iterable[LogRow]) -> list[Names]:
    """What there is after each generation."""
    states: list[Names] = []
    for row in history:
        # One that was added in a generation that is lost is first met here.
        known = dict(states[-1]) if states else {}
        if row.verb in ("eval", "fold", "forget", "rename"):
            for each in row.subject.split()[: 1 if row.verb == "rename" else None]:
                known.setdefault(each, (row.seq, False))
        states.append(_after(row, known, states))
    return states


def _after(row: LogRow, before: Names, states: Sequence[Names]) -> Names:
    names = row.subject.split()
    if row.verb == "undo" and row.restores < len(states):
        return states[row.restores]
    if row.verb in ("learn", "import"):
        return {**before, **dict.fromkeys(names, (row.seq, False))}
    if row.verb == "rename" and len(names) == 2:
        old, new = names
        return {new if each == old else each: key for each, key in before.items()}
    left = {each: key for each, key in before.items() if row.verb not in ("forget", "purge") or each not in names}
    # What a forget or a compaction leaves is in the stored weights altogether.
    folded = left if row.verb in ("forget", "purge", "compact") else names if row.verb == "fold" else ()
    return {each: (key, is_folded or each in folded) for each, (key, is_folded) in left.items()}


def _effect(row: LogRow, before: Names, after: Names, meant: Collection[int]) -> str | None:
    """What a generation did to concepts; "" where its verb says it, None where it was not about them."""
    if row.verb == LOST:
        return None
    then, now = (_by_key(state, meant) for state in (before, after))
    if row.verb == "compact":
        return "its delta is not kept any more" if then else None
    touched = {each for each, _ in (*then.values(), *now.values())}
    if touched & set(row.subject.split()):
        return ""
    changes = [_change(then.get(key), now.get(key)) for key in sorted(then.keys() | now.keys())]
    return "; ".join(filter(None, changes)) or None


def _by_key(state: Names, meant: Collection[int]) -> dict[int, tuple[str, bool]]:
    return {key: (each, is_folded) for each, (key, is_folded) in state.items() if key in meant}


def _change(then: tuple[str, bool] | None, now: tuple[str, bool] | None) -> str:
    """What became of a concept that had a name and was folded or not."""
    if then is None or now is None:
        if then == now:
            return ""
        return f"{now[0]} came back" if now else f"{then[0]} went" if then else ""
    (old, was_folded), (new, is_folded) = then, now
    if old != new:
        return f"{old} became {new} again"
    return "" if was_folded == is_folded else f"{new} is {'folded' if is_folded else 'not folded any more'}"
