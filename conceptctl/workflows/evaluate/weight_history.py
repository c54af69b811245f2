"""The weights, concept by concept: how far they went, and whether concepts change the same ones.

Of concepts that were consolidated only what they do together is known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conceptctl.metrics.drift import Drift, WeightHistory
from conceptctl.store import base, folded, weights
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store


@dataclass(frozen=True)
class Step:
    """One concept's part."""

    uid: str
    """Of the concept; empty for what was consolidated."""
    name: str
    drift: Drift | None
    """None for a concept that was consolidated."""


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
        if generation.consolidated:
            steps.append(Step("", "consolidated", history.add(_consolidated(store, generation))))
        for concept in generation.concepts:
            if concept.consolidated:
                steps.append(Step(concept.uid, concept.name, None))
                continue
            deltas = weights.read_deltas(store.blob(concept, read=True), shapes)
            drift = history.add((path, delta.mask, delta.values) for path, delta in deltas)
            steps.append(Step(concept.uid, concept.name, drift))
    return tuple(steps)


def _consolidated(store: Store, generation: Generation) -> Iterator[tuple[str, NDArray[np.bool_], weights.Array]]:
    """What the consolidated weights are beyond the base's."""
    alone = tuple(each for each in generation.concepts if each.consolidated)
    sums, _ = folded.read(store.layout, dataclasses.replace(generation, concepts=alone, folded=None))
    found = base.tensors(store.layout, generation.base)
    for path, weight in sums.items():
        change = weight - weights.read_floats(*found[path][:2])
        yield path, change != 0, change[change != 0]
