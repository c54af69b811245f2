"""Tokens: what gives the learned row of the token table in each step."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Row(nn.Module):
    """The row itself (Gal et al. 2023, "An image is worth one word", eq. 2)."""

    def __init__(self, start: Tensor) -> None:
        """Begin at a given row, (1, D)."""
        super().__init__()
        self.row = nn.Parameter(start.clone())

    def forward(self) -> Tensor:
        """The row, (1, D)."""
        return self.row * 1.0


class Mlp(nn.Module):
    """Two linear layers, D x D each, with ReLU between, on ones (STAMINA section 4, appendix D).

    Completes the paper: the last bias starts at the given row and the last weights near 0, so that training begins at
    a word and not at a random place.
    """

    def __init__(self, start: Tensor, *, generator: torch.Generator) -> None:
        """Begin at a given row, (1, D)."""
        super().__init__()
        width = start.shape[1]
        self.first = nn.Linear(width, width)
        self.last = nn.Linear(width, width)
        bound = width**-0.5
        with torch.no_grad():
            self.first.weight.copy_(bound * (2 * torch.rand(width, width, generator=generator) - 1))
            self.first.bias.copy_(bound * (2 * torch.rand(width, generator=generator) - 1))
            self.last.weight.zero_()
            self.last.bias.copy_(start[0])

    def forward(self) -> Tensor:
        """The row, (1, D)."""
        ones = torch.ones_like(self.first.bias)
        row: Tensor = self.last(torch.relu(self.first(ones)))
        return row[None]
