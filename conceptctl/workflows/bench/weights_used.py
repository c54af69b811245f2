"""What concepts took: weights trained and kept, how far the weights went, time and memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conceptctl import families
from conceptctl.store import base, tensorfile
from conceptctl.store.concept import read_record
from conceptctl.store.store import Store
from conceptctl.workflows.evaluate.weight_history import follow

FP32 = 4
TOLD = ("seconds_a_step", "peak_memory", "density", "trained_on", "precision")
"""What else is told of a training."""


def weights_used(stores: Sequence[Store], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Say of each concept what it took.

    Args:
        stores: The store of each concept; one for all of a sequence.
        names: The concepts.

    Yields:
        Numbers of one concept. Parameters are in % of the network that is adapted; what is stored is the bytes of its
        file but for features, in fp32 numbers.
    """
    shapes = shapes_in(stores[0])
    network = network_size(stores[0], shapes)
    drifts: dict[str, Any] = {}
    for root in dict.fromkeys(store.layout.root for store in stores):
        store = Store(root)
        drifts |= {step.name: step.drift for step in follow(store, store.head(), shapes)}
    for store, name in zip(stores, names, strict=True):
        path = store.blob(store.concept(name))
        record, drift = read_record(path), drifts[name]
        kept = bytes_kept(path)
        trained = [record.settings.get(part) for part in ("trained_in_unet", "trained_parameters")]
        yield {
            "name": name,
            "n_param_trained": _percent(trained[0], network),
            "n_param_trained_with_token": _percent(trained[1], network),
            "n_param_stored": 100 * kept / FP32 / network,
            "stored_bytes": kept,
            "changed": 100 * drift.changed / network if drift else None,
            "first_time": drift.first_time if drift else None,
            "distance": drift.distance if drift else None,
            **{part: record.settings.get(part) for part in TOLD},
            # Of trainings that end by themselves.
            **({"steps": record.steps, "stopped": record.settings["stopped"]} if "stopped" in record.settings else {}),
        }


def shapes_in(store: Store) -> dict[str, tuple[int, ...]]:
    """The shapes of a base's tensors, by parameter path."""
    return {path: info.shape for path, (_, _, info) in base.tensors(store.layout, store.head().base).items()}


def network_size(store: Store, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many parameters the network has that is adapted."""
    adapted = {pattern.partition("/")[0] for pattern in families.facts_of(store.head().base).targets}
    return sum(math.prod(shape) for path, shape in shapes.items() if path.partition("/")[0] in adapted)


def bytes_kept(path: Path) -> int:
    """The bytes of a concept's file, but for features."""
    tensors = tensorfile.read_header(path).tensors
    return sum(info.end - info.start for part, info in tensors.items() if part != "features")


def _percent(count: Any, of: int) -> float | None:
    return 100 * count / of if type(count) is int else None
