"""`compact`: a long history of deltas, replaced by the weights that they make."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from conceptctl.errors import Busy, NotFound
from conceptctl.store import blobs, folded, manifest, purge, tensorfile
from conceptctl.store.concept import read_record
from conceptctl.store.manifest import Action, BlobRef, Concept, Generation
from conceptctl.store.store import Store, Writer


@dataclass(frozen=True)
class CompactPlan:
    """What a compaction would change.

    Attributes:
        head: The generation it was planned on.
        names: The concepts whose deltas go.
        generations: How many generations can not be gone back to any more.
        freed_bytes: How many bytes nothing needs any more; `gc` takes them out.
        added_bytes: About how many the weights take that stand in their place.
    """

    head: Generation
    names: tuple[str, ...]
    generations: int
    freed_bytes: int
    added_bytes: int


def plan_compact(store: Store) -> CompactPlan:
    """Find out what goes.

    Raises:
        NotFound: There is no concept whose delta is kept, and no past to give up.
        StoreDamaged: A manifest is not as it was committed.
    """
    head = store.head()
    past = manifest.kept(purge.history(store.layout))
    names = tuple(each.name for each in head.concepts if not _is_bare(store, each))
    if not head.concepts or (not names and all(each.concepts == head.concepts for each in past)):
        noun = head.base.noun
        raise NotFound(f"there is nothing to compact: no {noun} has a delta of its own", hint="conceptctl list")
    left = {*head.base.files.values(), head.base.texts, *(each.blob for each in head.attachments)}
    freed = {ref for each in past for ref in each.blobs()} | {head.folded}
    size = sum(ref.size for ref in freed - left if ref)
    return CompactPlan(head, names, len(past), size, _weights_size(store, head))


def _weights_size(store: Store, head: Generation) -> int:
    """About how many bytes the weights of all concepts take."""
    from conceptctl.store import base, weights

    if head.consolidated:
        return head.consolidated.size
    found = base.tensors(store.layout, head.base)
    changed = {place for each in head.concepts for place in weights.places(tensorfile.read_header(store.blob(each)))}
    return sum(4 * math.prod(found[place][2].shape) for place in changed)


def _is_bare(store: Store, concept: Concept) -> bool:
    from conceptctl.store import weights

    return concept.consolidated and not weights.places(tensorfile.read_header(store.blob(concept)))


def compact(store: Store, plan: CompactPlan, *, wait: bool = False) -> Generation:
    """Carry out a plan: the weights stay what they are, to the bit, and concepts keep their names, tokens and records.

    Raises:
        Busy: Somebody else changes the store, or has since the plan was made.
        StoreDamaged: The base or a delta is damaged.
    """
    with store.writing("compact", wait=wait) as writer:
        head = writer.head
        if head.identity != plan.head.identity:
            raise Busy("the store has changed since the plan was made")
        sums, tokens = folded.read(store.layout, head)
        bare = tuple(
            dataclasses.replace(each, blob=_without_delta(writer, each), factored=False) for each in head.concepts
        )
        made = folded.consolidate(store.layout, dataclasses.replace(head, concepts=bare), sums, tokens)
        return writer.commit(
            head.after(
                Action("compact"),
                concepts=made.concepts,
                consolidated=made.consolidated,
                folded=made.folded,
                floor=head.seq + 1,
            )
        )


def _without_delta(writer: Writer, concept: Concept) -> BlobRef:
    """A concept's file again, with everything but its delta."""
    path = blobs.checked(writer.layout, concept.blob, f"concept {concept.name}", read=True)
    tensors, _ = tensorfile.read_tensors(path)
    left = {name: tensor for name, tensor in tensors.items() if not name.startswith("delta/")}
    record = dataclasses.replace(read_record(path), name=concept.name)
    return writer.add_tensors(left, record.metadata())
