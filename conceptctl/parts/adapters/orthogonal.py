"""Where an adapter begins that keeps off directions which earlier ones used (arXiv 2410.04891)."""

from __future__ import annotations

import torch
from torch import Tensor

USED = 1e-6
"""The share of the largest eigenvalue up to which a direction counts as unused: what fp32 leaves of 0."""


@torch.no_grad()
def orthogonal_rows(change: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """Draw rows of B in which what earlier adapters changed has nothing, or least, to say.

    A delta sees of a hidden state only what lies along the rows of its B. Rows that are orthogonal to those of all
    earlier ones make steps that earlier prompts see least of.

    Args:
        change: The sum of earlier deltas, (n, D1, D2).
        rank: r, at most D2.
        generator: Of the rows, on the CPU.

    Returns:
        (n, r, D2): orthogonal rows, drawn among the directions that no change uses; among the r that are used least
        where there are not so many. They are as long as LoRA's first rows are on average, which is 1 / sqrt(3).
    """
    rows = []
    for matrix in change.double().cpu():
        # Ascending: what is used least comes first.
        values, directions = torch.linalg.eigh(matrix.T @ matrix)
        unused = int((values <= USED * values[-1].clamp_min(0)).sum())
        among = directions[:, : max(rank, unused)]
        drawn = torch.randn(among.shape[1], rank, generator=generator, dtype=among.dtype)
        rows.append((among @ torch.linalg.qr(drawn).Q).T)
    return (torch.stack(rows) / 3**0.5).float()
