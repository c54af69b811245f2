"""Losses that are added to the denoising loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from conceptctl.diffusion.projections import Deltas


def sparsity(masks: Sequence[Tensor]) -> Tensor:
    """How much the masks let pass (STAMINA eq. 7).

    Completes the paper: the mean of each mask, summed over matrices. A sum over all entries would outweigh the
    denoising loss by millions, and a mean over all would leave each entry a gradient too small for Adam.

    Args:
        masks: One for each projection, entries 0 or 1.
    """
    return torch.stack([mask.mean() for mask in masks]).sum()


def forgetting(deltas: Deltas, earlier: Mapping[str, Tensor]) -> Tensor:
    """How much a task changes weights that earlier tasks changed (C-LoRA; STAMINA eqs. 3 and 8).

    Args:
        deltas: What this task adds, (D1, D2) by place.
        earlier: The absolute value of the sum of all earlier deltas, by place: one matrix each, however many tasks.

    Returns:
        The sum over all entries of (earlier * delta)^2.
    """
    # A dot product of a vector with itself makes no copy of the squares.
    parts = [(deltas[place] * amount).flatten() for place, amount in earlier.items() if place in deltas]
    return torch.stack([part.dot(part) for part in parts]).sum()
