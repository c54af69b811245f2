"""VeRA: frozen random projections that all targets share, and two vectors of each (Kopiczko et al. 2024, eq. 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from conceptctl.learning import method
from conceptctl.learning.method import ParameterGroups
from conceptctl.learning.weights import Deltas, Paths, Products, Shape, grouped_by_shape

PROJECTION_SEED = 0
"""Of the projections, which every training must draw alike: what earlier tasks learned is vectors over them."""
DOWN_START = 0.1
"""What the entries of d begin as (Kopiczko et al. 2024, section 3.3); those of b begin at 0."""


@dataclass(frozen=True)
class Config(method.Config):
    """VeRA's settings."""

    rank: int = 256
    """Rank of the projections ("Mining your own secrets", appendix G.1)."""


class Vera(nn.Module):
    """The delta of each target is diag(b) B diag(d) A, with b: D1 and d: r trained.

    Targets of other sizes take the first rows of B and the first columns of A: both are drawn for the largest.
    """

    up: Tensor
    down: Tensor

    def __init__(
        self, shapes: Mapping[str, Shape], rank: int, learning_rate: float, *, generator: torch.Generator
    ) -> None:
        """Draw the projections, and make the vectors.

        Args:
            shapes: The targets, (D1, D2) by path.
            rank: r; at most the longer side of the smallest target, so that a vector is no larger than what it is of.
            learning_rate: Of the vectors.
            generator: Not drawn from: nothing that trains begins at random.
        """
        super().__init__()
        self.learning_rate = learning_rate
        self.shapes = grouped_by_shape(shapes)
        rank = min(rank, *(max(shape) for shape in self.shapes.values()))
        most_rows, most_columns = (max(shape[axis] for shape in self.shapes.values()) for axis in (0, 1))
        drawn = torch.Generator().manual_seed(PROJECTION_SEED)
        # Frozen, and the same for every task: no state of the training.
        self.register_buffer("down", _kaiming_uniform(rank, most_columns, drawn), persistent=False)
        self.register_buffer("up", _kaiming_uniform(most_rows, rank, drawn), persistent=False)
        self.up_scales = nn.ParameterList(
            nn.Parameter(torch.zeros(len(paths), rows)) for paths, (rows, _) in self.shapes.items()
        )
        self.down_scales = nn.ParameterList(
            nn.Parameter(torch.full((len(paths), rank), DOWN_START)) for paths in self.shapes
        )

    def forward(self, generator: torch.Generator) -> Deltas:
        """The deltas; nothing in them is random."""
        return self.folded()

    def folded(self) -> Deltas:
        """The deltas."""
        made = self.products([*self.up_scales, *self.down_scales])
        return Deltas({paths: each.up @ each.down for paths, each in made.items()}, made)

    def products(self, factors: Sequence[Tensor]) -> dict[Paths, Products]:
        """What vectors make, for the matrices of each shape: diag(b) B diag(d), (n, D1, r), and A, (n, r, D2).

        Args:
            factors: Every b, (n, D1), and then every d, (n, r).
        """
        ups, downs = factors[: len(self.shapes)], factors[len(self.shapes) :]
        return {
            paths: Products(
                b[:, :, None] * self.up[:rows] * d[:, None, :], self.down[:, :columns].expand(len(paths), -1, -1)
            )
            for (paths, (rows, columns)), b, d in zip(self.shapes.items(), ups, downs, strict=True)
        }

    def groups(self) -> ParameterGroups:
        """Both kinds of vectors, at one rate."""
        return [{"params": [*self.up_scales, *self.down_scales], "lr": self.learning_rate}]

    def measures(self) -> Mapping[str, Tensor]:
        """Nothing worth watching."""
        return {}


def _kaiming_uniform(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """He et al. 2015, eq. 10, as uniform values of that variance: what Kopiczko et al. 2024 draw projections from."""
    unit = torch.rand(rows, columns, generator=generator)
    bound: float = (6 / columns) ** 0.5
    return (2 * unit - 1) * bound
