"""The weights, concept by concept: how far they went, and whether concepts change the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from conceptctl.metrics.drift import Drift, WeightHistory
from conceptctl.store import weights
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store


@dataclass(frozen=True)
class Step:
    """One concept's part."""

    uid: str
    name: str
    drift: Drift


def follow(store: Store, generation: Generation, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Step, ...]:
    """Add up the deltas of a generation's concepts in the order of learning.

    Args:
        store: The store.
        generation: Whose concepts.
        shapes: The base's tensors, by parameter path.

    Raises:
        StoreDamaged: A concept is damaged.
    """
    history = WeightHistory()
    steps = []
    with store.reading():
        for concept in generation.concepts:
            deltas = weights.read_deltas(store.blob(concept, read=True), shapes)
            drift = history.add((path, delta.mask, delta.values) for path, delta in deltas)
            steps.append(Step(concept.uid, concept.name, drift))
    return tuple(steps)
