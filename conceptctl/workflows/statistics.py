"""`stats`: what is in a store, and what takes how much space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from conceptctl.errors import ConceptctlError, ImportRefused, StoreDamaged
from conceptctl.store import blobs, garbage, jobs, manifest, purge, tensorfile
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import BlobRef, Concept, Generation
from conceptctl.store.store import Store
from conceptctl.workflows.evaluate.history import KIND


@dataclass(frozen=True)
class Statistics:
    """What a store holds.

    Attributes:
        head: The newest generation.
        first: When the store was made, UTC.
        actions: How many generations each verb made.
        concepts_ever: How many concepts there have been, those of now included.
        classes: How many of the concepts are of each class.
        methods: How many were learned with each method.
        unfolded: How many are not in the stored weights yet.
        evaluations: How many evaluations of concepts are kept.
        interrupted: How many trainings wait to go on.
        sizes: Bytes by kind; they add up to what the store takes.
        features: Bytes of kept features, which are part of the files of concepts.
        gc: Bytes that `gc` would free: now, and with the one after it. None where that is not known.
        trouble: Why it is not known; else empty.
    """

    head: Generation
    first: str
    actions: Mapping[str, int]
    concepts_ever: int
    classes: Mapping[str, int]
    methods: Mapping[str, int]
    unfolded: int
    evaluations: int
    interrupted: int
    sizes: Mapping[str, int]
    features: int
    gc: tuple[int, int] | None
    trouble: str = ""


def statistics(store: Store) -> Statistics:
    """Look at a whole store, without reading weights.

    Raises:
        StoreDamaged: A manifest is not as it was committed.
    """
    history = purge.history(store.layout)
    head, rows = store.head(), store.log()
    gc, trouble = None, ""
    try:
        plan = garbage.plan(store.layout)
        gc = plan.freed_bytes, plan.trashed_bytes
    except ConceptctlError as error:
        trouble = str(error)
    return Statistics(
        head,
        rows[0].time,
        dict(Counter(row.verb for row in rows)),
        len({concept.uid for past in history for concept in past.concepts}),
        dict(Counter(each.class_word for each in head.concepts)),
        dict(Counter(each.method for each in head.concepts)),
        sum(not each.folded for each in head.concepts),
        sum(each.kind == KIND for each in head.attachments),
        sum(1 for _ in jobs.found(store.layout)),
        _sizes(store.layout, history, head),
        sum(_features(store.layout, each) for each in head.concepts),
        gc,
        trouble,
    )


def _sizes(layout: Layout, history: list[Generation], head: Generation) -> dict[str, int]:
    kinds: dict[BlobRef, str] = dict.fromkeys((*head.base.files.values(), head.base.texts), "base")
    # Whatever the head has is called after that; the rest is what only history has.
    for past in [head, *manifest.kept(history)]:
        now = past is head
        for each in past.concepts:
            kinds.setdefault(each.blob, "concepts" if now else "concepts of the past")
        for attached in past.attachments:
            kinds.setdefault(attached.blob, "evaluations" if attached.kind == KIND else "class pictures")
        if past.consolidated:
            kinds.setdefault(past.consolidated, "consolidated weights" if now else "consolidated weights of the past")
    if head.folded:
        kinds.setdefault(head.folded, "folded weights")
    sizes: Counter[str] = Counter({"base": 0, "concepts": 0})
    named = {ref.sha256: kind for ref, kind in kinds.items()}
    for path in layout.blobs.glob("*/*"):
        sizes[named.get(path.name, "not needed")] += path.stat().st_size
    for what, folder in (("history", layout.generations), ("trainings", layout.jobs), ("trash", layout.trash),
                         ("damaged", layout.damaged)):  # fmt: skip
        sizes[what] += size_of(folder)
    sizes["history"] += sum(path.stat().st_size for path in (layout.index, layout.index_sum) if path.exists())
    return {what: size for what, size in sizes.items() if size}


def size_of(folder: Path) -> int:
    """Return how many bytes the files in a folder have."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _features(layout: Layout, concept: Concept) -> int:
    try:
        info = tensorfile.read_header(blobs.checked(layout, concept.blob, concept.name)).tensors.get("features")
    except (StoreDamaged, ImportRefused):
        return 0
    return info.end - info.start if info else 0
