"""The classifier of a generation: its base with all deltas, the rows of its head, and what the last task left."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from conceptctl.errors import NotFound
from conceptctl.families import check_classifies
from conceptctl.methods import find_classifier
from conceptctl.store import base, folded, weights
from conceptctl.store.concept import Record, read_record
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from conceptctl.families.vit import VitBackbone
    from conceptctl.learning.method import Config, Method
    from conceptctl.workflows.classification.learner import Learner

NEXT = "conceptctl learn DIR, with one folder for each class in it"


def records_of(store: Store, generation: Generation) -> tuple[Record, ...]:
    """Read the records of a generation's tasks, in the order of learning, by the names that they have in it.

    Raises:
        UsageError: The store draws.
        StoreDamaged: A task's file is missing or changed.
    """
    check_classifies(generation.base)
    return tuple(dataclasses.replace(read_record(store.blob(each)), name=each.name) for each in generation.concepts)


def check_ready(store: Store, generation: Generation, device: str) -> tuple[Record, ...]:
    """Refuse what cannot tell anything apart, before pictures are looked at; return the records of its tasks.

    Raises:
        UsageError: The store draws.
        NotFound: No class is learned in it.
        DeviceFailed: There is no such device.
        StoreDamaged: A task's file is missing or changed.
    """
    from conceptctl.diffusion.models import choose_device

    records = records_of(store, generation)
    if not records:
        raise NotFound(f"generation {generation.seq} has no classes yet", hint=NEXT)
    choose_device(device)
    return records


def probabilities(
    store: Store, generation: Generation, records: Sequence[Record], pixels: np.ndarray, device: str
) -> tuple[list[str], Tensor]:
    """Tell the classes of a generation apart.

    Args:
        store: The store.
        generation: One of its generations.
        records: Those of its tasks.
        pixels: Pictures of the base's size, (N, S, S, 3), sRGB, 8 bits.
        device: "auto", "cpu" or "cuda".

    Returns:
        The classes, and the probability of each, (N, C); on the CPU.

    Raises:
        StoreDamaged: The base or a task is damaged.
        DeviceFailed: Memory ran out.
    """
    from conceptctl.diffusion.models import enough_memory

    with enough_memory("fewer pictures at once, or --device cpu"):
        learned = classifier(store, generation, records, device)
        return learned.names, learned.classify(learned.backbone.encode(pixels)).cpu()


def classifier(store: Store, generation: Generation, records: Sequence[Record], device: str = "auto") -> Learner:
    """Load what tells the classes of a generation apart.

    Args:
        store: The store.
        generation: One of its generations.
        records: Those of its tasks; there is one.
        device: "auto", "cpu" or "cuda".

    Raises:
        NotFound: The base cannot be read with this release of transformers.
        StoreDamaged: The base or a task is damaged.
    """
    last = records[-1]
    found = find_classifier(last.method)
    known = {each.name for each in dataclasses.fields(found.configuration)}
    config = found.configuration(**{name: value for name, value in last.settings.items() if name in known})
    return learner(store, generation, records, found, config, device)


def learner(
    store: Store,
    generation: Generation,
    records: Sequence[Record],
    method: type[Method],
    config: Config,
    device: str = "auto",
    *,
    epochs: int = 1,
    seed: int = 0,
) -> Learner:
    """Load what learns more classes on top of those of a generation.

    Args:
        store: The store.
        generation: One of its generations.
        records: Those of its tasks.
        method: What learns, and knows what the last task left.
        config: Its settings.
        device: "auto", "cpu" or "cuda".
        epochs: How often each picture of a task is drawn.
        seed: Of everything random.

    Raises:
        NotFound: The base cannot be read with this release of transformers.
        StoreDamaged: The base or a task is damaged.
    """
    import torch

    from conceptctl.diffusion.models import choose_device
    from conceptctl.families import vit
    from conceptctl.workflows.classification.learner import Learner

    with base.folder(store.layout, generation) as folder:
        backbone = vit.load_base(folder, choose_device(device), generation.base)
    made = Learner(backbone, method, config, epochs=epochs, seed=seed)
    if not records:
        return made
    change, tokens = _put_in(store, generation, backbone, change=config.needs_change)
    rows = [torch.from_numpy(tokens[each.uid].copy()) for each in generation.concepts]
    state = weights.read_state(store.blob(generation.concepts[-1], read=True))
    made.go_on(
        [name for record in records for name in record.classes],
        {vit.HEAD: torch.cat(rows)},
        len(records),
        {name: torch.from_numpy(each) for name, each in state.items()},
        change,
    )
    return made


def _put_in(
    store: Store, generation: Generation, backbone: VitBackbone, *, change: bool
) -> tuple[dict[str, Tensor], dict[str, weights.Array]]:
    """Put a generation's weights into its base; return by how much they changed, where that is asked, and the rows."""
    import torch

    sums, tokens = folded.read(store.layout, generation)
    found = base.tensors(store.layout, generation.base)
    changed = {}
    for path in backbone.targets() if len(sums) else ():
        start = weights.read_floats(*found[path][:2])
        now = sums.get(path, start)
        backbone.set_weights({path: torch.from_numpy(now)})
        if change:
            changed[path] = torch.from_numpy(now - start).to(backbone.device)
    return changed, tokens
