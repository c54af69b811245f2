"""What concepts took: weights trained and kept, how far the weights went, time and memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from conceptctl import families
from conceptctl.store import base, tensorfile
from conceptctl.store.concept import read_record
from conceptctl.store.store import Store
from conceptctl.workflows.evaluate.weight_history import follow

FP32 = 4
_TOLD = ("seconds_a_step", "peak_memory", "density", "trained_on", "precision")


def weights_used(stores: Sequence[Store], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Say of each concept what it took.

    Args:
        stores: The store of each concept; one for all of a sequence.
        names: The concepts.

    Yields:
        Numbers of one concept. Parameters are in % of the network that is adapted; what is stored is the bytes of its
        file but for features, in fp32 numbers.
    """
    shapes = {path: info.shape for path, (_, _, info) in base.tensors(stores[0].layout, stores[0].head().base).items()}
    adapted = {pattern.partition("/")[0] for pattern in families.facts_of(stores[0].head().base).targets}
    network = sum(math.prod(shape) for path, shape in shapes.items() if path.partition("/")[0] in adapted)
    drifts: dict[str, Any] = {}
    for root in dict.fromkeys(store.layout.root for store in stores):
        store = Store(root)
        drifts |= {step.name: step.drift for step in follow(store, store.head(), shapes)}
    for store, name in zip(stores, names, strict=True):
        path = store.blob(store.concept(name))
        record, drift = read_record(path), drifts[name]
        kept = sum(
            info.end - info.start for part, info in tensorfile.read_header(path).tensors.items() if part != "features"
        )
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
            **{part: record.settings.get(part) for part in _TOLD},
        }


def _percent(count: Any, of: int) -> float | None:
    return 100 * count / of if type(count) is int else None
