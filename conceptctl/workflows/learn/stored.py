"""What was learned as a store keeps it: on the CPU, in fp32, and as factors where these are smaller."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from conceptctl.errors import DeviceFailed
from conceptctl.learning.method import Learned
from conceptctl.learning.weights import Deltas
from conceptctl.store import weights
from conceptctl.store.factors import Factors, smaller

if TYPE_CHECKING:
    from torch import Tensor


def as_stored(learned: Learned, *, draws: bool = True) -> tuple[Learned, dict[str, Factors]]:
    """Make deltas the ones that a store makes of their factors, where those are smaller than they are themselves.

    Args:
        learned: What a method keeps.
        draws: Whether its token rows are drawn with, also in half precision.

    Returns:
        The same on the CPU and with these deltas, and the factors by path: what draws from now on is what will be read.

    Raises:
        DeviceFailed: What was learned is no number, or one with which no model draws.
    """
    learned = _on_cpu(learned)
    deltas, rows = tuple(learned.deltas.values()), tuple(learned.tokens.values())
    drawn = (*deltas, *rows) if draws else deltas
    if not all(bool(each.isfinite().all()) for each in (*deltas, *rows, *learned.state.values())):
        raise DeviceFailed("what was learned holds nan or inf; nothing is kept", hint="a smaller --learning-rate")
    if not all(weights.is_drawable(each.numpy()) for each in drawn):
        raise DeviceFailed(
            f"what was learned has numbers beyond {weights.LARGEST:g}, with which no model draws; nothing is kept",
            hint="a smaller --learning-rate",
        )
    stacks, found = dict(learned.deltas.stacks), {}
    for paths, products in learned.deltas.products.items():
        matrices = dict(zip(paths, stacks[paths], strict=True))
        for path, (up, down, mask) in zip(paths, products.unbind(), strict=True):
            passing = None if mask is None else mask.numpy()
            if factors := smaller(up.numpy(), down.numpy(), passing, matrices[path].numpy()):
                found[path] = factors
                matrices[path] = torch.from_numpy(factors.product())
        stacks[paths] = torch.stack(list(matrices.values()))
    return replace(learned, deltas=Deltas(stacks)), found


def _on_cpu(learned: Learned) -> Learned:
    def moved(tensor: Tensor) -> Tensor:
        return tensor.detach().float().cpu()

    return Learned(
        Deltas(
            {paths: moved(stack) for paths, stack in learned.deltas.stacks.items()},
            {paths: each.to(torch.device("cpu")) for paths, each in learned.deltas.products.items()},
        ),
        {table: moved(rows) for table, rows in learned.tokens.items()},
        {name: moved(value) for name, value in learned.state.items()},
        learned.contains,
    )
