"""The stored weights: made from the base and the deltas, always in the order of learning.

Nothing is ever subtracted. Weights without a concept, or of an earlier generation, are made again from the base
and the deltas that remain, and come out with the digest they had.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from conceptctl.errors import StoreDamaged
from conceptctl.store import base, blobs, tensorfile
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import BlobRef, Concept, Generation

if TYPE_CHECKING:
    from conceptctl.store.weights import Array


def build(layout: Layout, generation: Generation) -> BlobRef | None:
    """Write the weights of a generation's folded concepts, and return the blob; None when none is folded."""
    concepts = [concept for concept in generation.concepts if concept.folded]
    if not concepts:
        return None
    from conceptctl.store import weights

    deltas = [(concept.uid, _delta(layout, concept)) for concept in concepts]
    changed = {place.partition("/")[0] for _, path in deltas for place in weights.places(tensorfile.read_header(path))}
    found = base.tensors(layout, generation.base, read=changed)
    sums, tokens = weights.fold({place: (path, name) for place, (path, name, _) in found.items()}, deltas)
    return blobs.add_tensors(layout, weights.folded_tensors(sums, tokens), {})


Spare = Callable[[Concept, StoreDamaged], None]
"""Called with a concept whose delta is needed and damaged; it is left out, unless this raises."""


def refuse(concept: Concept, error: StoreDamaged) -> None:
    """Leave nothing out."""
    raise error


def read(layout: Layout, generation: Generation, spare: Spare = refuse) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return a generation's weights with all of its concepts in them, folded or not.

    What is not folded yet is added to the stored weights. Where those are gone, as those of earlier generations are, or
    damaged, all of it is made from the base and the deltas, and comes out the same, bit for bit.

    Args:
        layout: The store.
        generation: One of its generations.
        spare: What is done about damaged concepts.

    Returns:
        The weights that its concepts change, fp32, by place; and their token rows, by uid.

    Raises:
        StoreDamaged: The base is damaged, or a concept's delta that is needed.
    """
    from conceptctl.store import weights

    stored = generation.folded
    if stored and blobs.problem(layout, stored, read=True):
        stored = None
    found = base.tensors(layout, generation.base)
    deltas = []
    for concept in generation.concepts:
        if stored and concept.folded:
            continue
        try:
            deltas.append((concept.uid, _delta(layout, concept)))
        except StoreDamaged as error:
            spare(concept, error)
    return weights.fold(
        {place: (path, name) for place, (path, name, _) in found.items()},
        deltas,
        layout.blob(stored.sha256) if stored else None,
    )


def _delta(layout: Layout, concept: Concept) -> Path:
    return blobs.checked(layout, concept.blob, f"concept {concept.name}", read=True)


def ensure(layout: Layout, generation: Generation) -> None:
    """Make sure that a generation's folded weights are there, as they were when it was committed.

    Raises:
        StoreDamaged: What they are made from has changed, so they come out different.
    """
    wanted = generation.folded
    if wanted is None or blobs.problem(layout, wanted, read=True) == "":
        return
    if build(layout, generation) != wanted:
        raise StoreDamaged(f"the weights of generation {generation.seq} come out different from what they were")
