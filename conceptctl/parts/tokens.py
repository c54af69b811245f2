"""Tokens: what gives the learned rows of the token tables in each step."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from conceptctl.learning.weights import TokenRows


class TokenEmbedding(nn.Module):
    """The rows themselves (Gal et al. 2023, "An image is worth one word", eq. 2)."""

    def __init__(self, start: TokenRows) -> None:
        """Begin at given rows, (n, D) by table."""
        super().__init__()
        self.tables = tuple(start)
        self.speeds = dict.fromkeys(start, 1.0)
        """How many times the learning rate a coordinate of a row moves in a step of Adam's, by table."""
        self.rows = nn.ParameterList(nn.Parameter(rows.clone()) for rows in start.values())

    def forward(self) -> TokenRows:
        """The rows, (n, D) by table."""
        return {table: row * 1.0 for table, row in zip(self.tables, self.rows, strict=True)}


class TokenMlp(nn.Module):
    """Two linear layers, D x D each, with ReLU between, on ones, for each row (STAMINA section 4, appendix D).

    Completes the paper: the last bias starts at the given row and the last weights at 0, so that training begins at
    a word and not at a random place.
    """

    def __init__(self, start: TokenRows, *, generator: torch.Generator) -> None:
        """Begin at given rows, (n, D) by table."""
        super().__init__()
        self.counts = {table: len(rows) for table, rows in start.items()}
        mlps = {table: [_RowMlp(row, generator) for row in rows] for table, rows in start.items()}
        self.rows = nn.ModuleList(chain.from_iterable(mlps.values()))
        self.speeds = {table: sum(mlp.speed() for mlp in own) / len(own) for table, own in mlps.items()}
        """How many times the learning rate a coordinate of a row moves in the first step of Adam's, by table. Each live
        column of the last layer and its bias add one: |h|_1 + 1, with h the hidden layer, which grows from there."""

    def forward(self) -> TokenRows:
        """The rows, (n, D) by table."""
        made = iter(self.rows)
        return {table: torch.cat([next(made)() for _ in range(count)]) for table, count in self.counts.items()}


class _RowMlp(nn.Module):
    """The MLP of one row."""

    def __init__(self, start: Tensor, generator: torch.Generator) -> None:
        """Begin at a given row, (D,)."""
        super().__init__()
        width = len(start)
        self.first = nn.Linear(width, width)
        self.last = nn.Linear(width, width)
        bound = width**-0.5
        with torch.no_grad():
            self.first.weight.copy_(bound * (2 * torch.rand(width, width, generator=generator) - 1))
            self.first.bias.copy_(bound * (2 * torch.rand(width, generator=generator) - 1))
            self.last.weight.zero_()
            self.last.bias.copy_(start)

    def forward(self) -> Tensor:
        """The row, (1, D)."""
        row: Tensor = self.last(self._hidden())
        return row[None]

    @torch.no_grad()
    def speed(self) -> float:
        """|h|_1 + 1."""
        return float(self._hidden().sum()) + 1

    def _hidden(self) -> Tensor:
        return torch.relu(self.first(torch.ones_like(self.first.bias)))
