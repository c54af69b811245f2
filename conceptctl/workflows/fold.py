"""`fold`: what was learned, merged into the stored weights."""

import dataclasses
from dataclasses import dataclass

from conceptctl.store import folded
from conceptctl.store.manifest import Action, Generation
from conceptctl.store.store import Store


@dataclass(frozen=True)
class Folded:
    """What a fold did: the head after it, and the concepts it merged."""

    head: Generation
    names: tuple[str, ...]


def unfolded(generation: Generation) -> tuple[str, ...]:
    """Return the names of the concepts that the stored weights do not hold yet."""
    return tuple(concept.name for concept in generation.concepts if not concept.folded)


def fold(store: Store, *, wait: bool = False) -> Folded:
    """Merge every delta that is not folded yet, in the order of learning, as one generation.

    With nothing to fold, the head stays what it is.

    Raises:
        Busy: Somebody else changes the store.
        StoreDamaged: The base or a delta is damaged.
    """
    with store.writing("fold", wait=wait) as writer:
        names = unfolded(writer.head)
        if not names:
            return Folded(writer.head, ())
        concepts = tuple(dataclasses.replace(concept, folded=True) for concept in writer.head.concepts)
        merged = writer.head.after(Action("fold", names), concepts=concepts)
        weights = folded.build(store.layout, merged)
        return Folded(writer.commit(dataclasses.replace(merged, folded=weights)), names)
