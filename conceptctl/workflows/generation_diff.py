"""`diff`: how two generations differ, in concepts and in weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from conceptctl.errors import NotFound
from conceptctl.store import base, folded
from conceptctl.store.manifest import Concept, Generation
from conceptctl.store.store import Store


@dataclass(frozen=True)
class GenerationDiff:
    """How the second of two generations differs from the first.

    Attributes:
        before: The first.
        after: The second.
        added: Concepts that only the second has.
        removed: Concepts that only the first has.
        relearned: Concepts of a name that is another concept's in the first.
        renamed: Concepts that are called otherwise: as they are in the first, and in the second.
        rewritten: Concepts whose files are others: a compaction has taken their deltas out.
        distance: |W2 - W1| / |W1|, Frobenius norm over all weights that concepts can change, as pictures are drawn with
            them; None where the weights of one of the two cannot be made any more.
        largest: The same for each weight that differs, by parameter path, largest first.
        gone: Why there is no distance; else empty.
    """

    before: Generation
    after: Generation
    added: tuple[Concept, ...]
    removed: tuple[Concept, ...]
    relearned: tuple[Concept, ...]
    renamed: tuple[tuple[Concept, Concept], ...]
    rewritten: tuple[Concept, ...]
    distance: float | None
    largest: Mapping[str, float]
    gone: str = ""


def diff(store: Store, first: int, second: int | None = None) -> GenerationDiff:
    """Compare two generations.

    Args:
        store: The store.
        first: A generation.
        second: Another one; the head by default.

    Raises:
        NotFound: History does not go there.
        StoreDamaged: A manifest, the base or a delta is not as it was committed.
    """
    with store.reading() as head:
        before = store.generation(first)
        after = head if second is None else store.generation(second)
        distance, largest, gone = _distance(store, before, after)
    then, now = ({each.uid: each for each in generation.concepts} for generation in (before, after))
    taken = {each.name for each in before.concepts if each.uid not in now}
    came = [each for uid, each in now.items() if uid not in then]
    relearned = tuple(each for each in came if each.name in taken)
    again = {each.name for each in relearned}
    stayed = [(then[uid], each) for uid, each in now.items() if uid in then]
    return GenerationDiff(
        before,
        after,
        tuple(each for each in came if each.name not in again),
        tuple(each for uid, each in then.items() if uid not in now and each.name not in again),
        relearned,
        tuple((old, new) for old, new in stayed if old.name != new.name),
        tuple(new for old, new in stayed if old.blob != new.blob),
        distance,
        largest,
        gone,
    )


def _distance(store: Store, before: Generation, after: Generation) -> tuple[float | None, dict[str, float], str]:
    """How far the weights are from each other: in total and each; or why that cannot be said."""
    import numpy as np

    from conceptctl.families import facts_of
    from conceptctl.store import weights

    try:
        for each in (before, after):
            store.drawable(each.seq)
    except NotFound as error:
        return None, {}, str(error)
    found = base.tensors(store.layout, before.base)
    family = facts_of(before.base)
    then, _ = folded.read(store.layout, before)
    now, _ = (then, None) if after == before else folded.read(store.layout, after)
    changed_in_all, size_in_all, each_one = 0.0, 0.0, {}
    for path in sorted(found):
        if not family.is_target(path):
            continue
        start = weights.read_floats(*found[path][:2]) if path not in then or path not in now else None
        old = then.get(path, start)
        new = now.get(path, start)
        assert old is not None and new is not None
        size = float(np.square(old, dtype=np.float64).sum())
        changed = float(np.square(new.astype(np.float64) - old).sum())
        size_in_all += size
        changed_in_all += changed
        if changed:
            # Where there was nothing before, all of it is new.
            each_one[path] = (changed / (size or changed)) ** 0.5
    largest = dict(sorted(each_one.items(), key=lambda item: -item[1]))
    return ((changed_in_all / size_in_all) ** 0.5 if size_in_all else 0.0), largest, ""
