"""The stored weights: made from the base and the deltas, always in the order of learning.

Nothing is ever subtracted. Weights of an earlier generation are made again from the base and the deltas, and come out
with the digest they had. Where a generation has consolidated weights, these stand in the place of the base and of the
deltas of the concepts that they hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from conceptctl.errors import StoreDamaged
from conceptctl.store import base, blobs, tensorfile
from conceptctl.store.concept import METADATA_KEY
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import BlobRef, Concept, Generation

if TYPE_CHECKING:
    from conceptctl.store.weights import Array, Sums


def build(layout: Layout, generation: Generation) -> BlobRef | None:
    """Write the weights of a generation's folded concepts, and return the blob; None when none is folded."""
    concepts = [concept for concept in generation.concepts if concept.folded and not concept.consolidated]
    start = _consolidated(layout, generation)
    if not concepts:
        return generation.consolidated
    from conceptctl.store import weights

    deltas = [(concept.uid, _delta(layout, concept)) for concept in concepts]
    changed = {place.partition("/")[0] for _, path in deltas for place in weights.places(tensorfile.read_header(path))}
    found = base.tensors(layout, generation.base, read=changed)
    sums, tokens = weights.fold({place: (path, name) for place, (path, name, _) in found.items()}, deltas, start)
    return blobs.add_tensors(layout, weights.folded_tensors(sums, tokens), {})


Spare = Callable[[Concept, StoreDamaged], None]
"""Called with a concept whose delta is needed and damaged; it is left out, unless this raises."""


def refuse(concept: Concept, error: StoreDamaged) -> None:
    """Leave nothing out."""
    raise error


def read(layout: Layout, generation: Generation, spare: Spare = refuse) -> tuple[Sums, dict[str, Array]]:
    """Return a generation's weights with all of its concepts in them, folded or not.

    What is not folded yet is added to the stored weights. Where those are gone, as those of earlier generations are, or
    damaged, all of it is made from the base and the deltas, and comes out the same, bit for bit.

    Args:
        layout: The store.
        generation: One of its generations.
        spare: What is done about damaged concepts.

    Returns:
        The weights that its concepts change, fp32, by place, each added up when it is asked for; and their token rows,
        by uid.

    Raises:
        StoreDamaged: The base is damaged, or a concept's delta that is needed.
    """
    from conceptctl.store import weights

    stored = generation.folded
    if stored and blobs.problem(layout, stored, read=True):
        stored = None
    found = base.tensors(layout, generation.base)
    start = layout.blob(stored.sha256) if stored else _consolidated(layout, generation)
    deltas = []
    for concept in generation.concepts:
        if concept.folded if stored else concept.consolidated:
            continue
        try:
            deltas.append((concept.uid, _delta(layout, concept)))
        except StoreDamaged as error:
            spare(concept, error)
    return weights.fold(
        {place: (path, name) for place, (path, name, _) in found.items()},
        deltas,
        start,
    )


def _consolidated(layout: Layout, generation: Generation) -> Path | None:
    """Where a generation's deltas start instead of at the base; None at the base."""
    ref = generation.consolidated
    if ref is None:
        return None
    try:
        return blobs.checked(layout, ref, "the consolidated weights", read=True)
    except StoreDamaged as error:
        # They cannot be made again; what was before the forget that left them can.
        hint = "conceptctl undo --to a generation before the forget that left them (conceptctl log); else a backup"
        raise StoreDamaged(str(error), hint=hint) from None


def consolidate(
    layout: Layout, generation: Generation, sums: Mapping[str, Array], tokens: Mapping[str, Array]
) -> Generation:
    """Put weights in the place of all deltas of a generation, folded.

    Args:
        layout: The store.
        generation: With the concepts that are in the weights; nothing of it is committed here.
        sums: The weights of its targets, fp32, by place.
        tokens: Token rows by uid, of the concepts that are in the weights; those that are not there stay as they are.
    """
    from conceptctl.store import weights

    own = {each.uid: tokens[each.uid] for each in generation.concepts if each.uid in tokens}
    # They are never the bytes of folded weights, which are removed when others take their place.
    ref = blobs.add_tensors(layout, weights.folded_tensors(sums, own), {METADATA_KEY: '{"consolidated":true}'})
    concepts = tuple(
        dataclasses.replace(each, folded=True, consolidated=True) if each.uid in own else each
        for each in generation.concepts
    )
    return dataclasses.replace(generation, concepts=concepts, consolidated=ref, folded=ref)


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
