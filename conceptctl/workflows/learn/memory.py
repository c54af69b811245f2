"""How many samples go through the network together: as many as the device's free memory holds, counted before it is.

However many, a step has the same samples, noise and times, and so the same gradient: see `learning.loop.train`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from conceptctl.diffusion.memory import LiveBytes
from conceptctl.learning.weights import Deltas, adapted

if TYPE_CHECKING:
    from torch import nn

    from conceptctl.learning.backbone import Backbone
    from conceptctl.learning.method import Trainable

_SLACK = 1.1
"""What an allocator takes for what was counted: it rounds up, and leaves gaps."""
_WORKSPACE = 300 << 20
"""Bytes of kernels' workspaces."""


@dataclass(frozen=True)
class Fit:
    """How a step is fitted into memory."""

    micro_batch: int | None
    """Samples that go through the network together; None for all of a batch."""
    checkpointing: bool
    """Whether the network computes again on the way back what it would have to hold."""
    needed: int | None = None
    """Bytes that it takes beside the model, as counted."""
    free: int | None = None
    """Bytes that were free for that."""


@dataclass(frozen=True)
class AdapterBytes:
    """What a method takes beside the network's own activations."""

    lasting: int
    """Gradients and the optimizer's state of what trains, fp32: three times its parameters."""
    held: int
    """What is there while the network runs: deltas with their graph, and the weights that they are added to."""
    alone: int
    """The most at once while nothing of the network is there any more."""

    def with_activations(self, activations: int) -> int:
        """The most bytes of a step."""
        return self.lasting + max(self.held + activations, self.alone)


def adapter_bytes(trainable: Trainable, targets: Mapping[str, nn.Linear]) -> AdapterBytes:
    """Count what a method's own part of a step takes, by doing it once on the device; no parameter changes.

    Args:
        trainable: What trains, on the device.
        targets: The projections that deltas go on, frozen.
    """
    parameters = list(trainable.parameters())
    generator = torch.Generator().manual_seed(0)
    with adapted(targets) as weights:
        known = [*parameters, *trainable.buffers(), *(module.weight for module in targets.values())]
        with LiveBytes(known) as live:
            # A step keeps them, for its penalty.
            deltas = trainable.deltas(generator)
            weights.put(deltas)
            held = live.live
            # One row through each: gradients of weights are whole ones, and nothing else counts.
            rows = [module.weight.new_zeros(1, module.in_features) for module in targets.values()]
            total = torch.stack([module(row).sum() for module, row in zip(targets.values(), rows, strict=True)]).sum()
            if total.requires_grad:
                total.backward()
        weights.put(Deltas())
    for parameter in parameters:
        parameter.grad = None
    trained = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    return AdapterBytes(3 * trained, held, live.peak)


def fit(needed: Callable[[int, bool], int], batch: int, free: int) -> Fit:
    """Choose how a step goes through the network: in as few parts as there is room for.

    What is computed again costs a third more time, and single samples cost more than that on large GPUs: gradients are
    checkpointed where otherwise not two samples find room.

    Args:
        needed: Bytes of a step, given samples that go together and whether gradients are checkpointed.
        batch: Samples of a portion of a step.
        free: Bytes that are free.
    """
    sizes = [batch]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    for checkpointing in (False, True):
        for size in sizes:
            takes = int(needed(size, checkpointing) * _SLACK) + _WORKSPACE
            if takes <= free and (checkpointing or size > 1 or batch == 1):
                return Fit(size, checkpointing, takes, free)
    # What does not fit is tried all the same: it was counted, and not tried.
    return Fit(1, True, int(needed(1, True) * _SLACK) + _WORKSPACE, free)


def free_bytes(device: torch.device) -> int:
    """Bytes of a GPU that nobody holds, after what this process keeps for later was given back."""
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return int(free)


def fitted(trainable: Trainable, backbone: Backbone, shape: tuple[int, ...], batch: int) -> Fit | None:
    """Choose by what a GPU has free; None where nothing is known of the model, or there is no GPU.

    Args:
        trainable: What trains, on the device.
        backbone: The model, on the device.
        shape: Of what the network is given for one sample, (C, H, W).
        batch: Samples of a portion of a step.
    """
    if backbone.device.type != "cuda" or backbone.training_peak(shape, 1, checkpointing=False) is None:
        return None
    own = adapter_bytes(trainable, backbone.targets())

    def needed(micro_batch: int, checkpointing: bool) -> int:
        return own.with_activations(_linear(backbone, shape, micro_batch, checkpointing))

    return fit(needed, batch, free_bytes(backbone.device))


def _linear(backbone: Backbone, shape: tuple[int, ...], micro_batch: int, checkpointing: bool) -> int:
    """Activations of so many samples, by those of one and of two: each takes as much as the other."""
    one, two = (backbone.training_peak(shape, count, checkpointing=checkpointing) or 0 for count in (1, 2))
    return one + max(0, two - one) * (micro_batch - 1)
