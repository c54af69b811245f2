"""The stored weights: made from the base and the deltas, always in the order of learning.

Nothing is ever subtracted. Weights without a concept, or of an earlier generation, are made again from the base
and the deltas that remain, and come out with the digest they had.
"""

from pathlib import Path

from conceptctl.errors import StoreDamaged
from conceptctl.store import base, blobs
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import BlobRef, Concept, Generation


def build(layout: Layout, generation: Generation) -> BlobRef | None:
    """Write the weights of a generation's folded concepts, and return the blob; None when none is folded."""
    concepts = [concept for concept in generation.concepts if concept.folded]
    if not concepts:
        return None
    from conceptctl.store import weights

    found = base.tensors(layout, generation.base, read=True)
    sums, tokens = weights.fold(
        {place: (path, name) for place, (path, name, _) in found.items()},
        [(concept.uid, _delta(layout, concept)) for concept in concepts],
    )
    return blobs.add_tensors(layout, weights.folded_tensors(sums, tokens), {})


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
