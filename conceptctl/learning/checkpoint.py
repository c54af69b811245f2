"""The state of a training under way: what is saved, and how a run goes on from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from conceptctl.learning.method import Trainable
from conceptctl.learning.optim import as_kept, as_saved

STATE_FORMAT = 3
"""What the tensors of a `TrainingState` mean: another number whenever a method's parameters come in other shapes."""


@dataclass
class TrainingState:
    """All that a training needs to go on: the same steps follow, bit for bit on a CPU."""

    step: int = 0
    """Steps done, those of all phases counted together."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Parameters and buffers, the optimizer's state, what the next report will sum up, and the parameters and buffers
    that were best, by name."""
    counted: int = 0
    """Steps since the last report."""
    curve: list[float] = field(default_factory=list)
    """The loss over the first phase."""
    stopping: dict[str, Any] | None = None
    """What a `StoppingRule` knows, for JSON; None where no phase ends by itself."""


def tensors_of(
    trainable: Trainable, optimizers: Mapping[Tensor, torch.optim.Optimizer], sums: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Copy everything to the CPU, by name.

    Args:
        trainable: What trains.
        optimizers: By the parameters that they train.
        sums: Sums for the next report.
    """
    tensors: dict[str, Tensor] = {f"parameter/{name}": value for name, value in trainable.state_dict().items()}
    for name, parameter in trainable.named_parameters():
        if parameter in optimizers:
            for key, value in as_saved(optimizers[parameter].state.get(parameter, {})).items():
                tensors[f"optimizer/{name}/{key}"] = value
    tensors |= {f"sum/{name}": value for name, value in sums.items()}
    return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}


def restore(
    tensors: Mapping[str, Tensor], trainable: Trainable, optimizers: Mapping[Tensor, torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """Put back what `tensors_of` copied, and return the sums."""
    parameters = dict(trainable.named_parameters())
    device = next(iter(parameters.values())).device
    trainable.load_state_dict(
        {key.removeprefix("parameter/"): value for key, value in tensors.items() if key.startswith("parameter/")}
    )
    for name, parameter in parameters.items():
        start = f"optimizer/{name}/"
        found = {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
        # Between two phases there are none: what the one before had is of no use to the next.
        if found and parameter in optimizers:
            moved = {key: value.to(device, copy=True) for key, value in found.items()}
            optimizers[parameter].state[parameter] = as_kept(optimizers[parameter], moved)
    return {key.removeprefix("sum/"): value.to(device) for key, value in tensors.items() if key.startswith("sum/")}
