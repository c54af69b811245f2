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


def preservation(deltas: Deltas, states: Tensor, sizes: Mapping[str, Tensor]) -> Tensor:
    """How much a task changes the keys and values of prompts that are not its own.

    Not in the papers of the methods here. Closed-form editing keeps a list of prompts that way (Gandikota et al. 2024,
    "Unified concept editing in diffusion models", eq. 5); the second moment of their states stands for the list, as in
    Meng et al. 2022, "Locating and editing factual associations in GPT", section 3.1.

    Args:
        deltas: What this task adds, (D1, D2) by place.
        states: R of shape (D2, k), with R R^T the second moment of those prompts' hidden states.
        sizes: The mean square of what each projection makes of them before this task, |W R|^2, by place.

    Returns:
        The mean over projections of |delta R|^2 / |W R|^2: the share of change.
    """
    return torch.stack([(delta @ states).square().sum() / sizes[place] for place, delta in deltas.items()]).mean()


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
