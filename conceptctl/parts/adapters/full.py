"""Whole weight matrices that train, as Custom Diffusion's keys and values do (Kumari et al. 2023, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from conceptctl.learning import method
from conceptctl.learning.method import ParameterGroups, State
from conceptctl.learning.weights import Deltas, Shape, grouped_by_shape
from conceptctl.parts.adapters.measured import Measured


@dataclass(frozen=True)
class Config(method.Config):
    """Custom Diffusion's settings; values from STAMINA's appendix D."""

    learning_rate: float = 5e-6
    """Step size of the weights."""
    token_learning_rate: float = 5e-6
    """Step size of the token."""


class Full(nn.Module):
    """The change of every target, entry by entry; 0 at the start, so that it is theta - theta* by itself."""

    def __init__(self, shapes: Mapping[str, Shape], learning_rate: float) -> None:
        """Begin with no change.

        Args:
            shapes: The targets, (D1, D2) by path.
            learning_rate: Of every entry.
        """
        super().__init__()
        self.learning_rate = learning_rate
        self.shapes = grouped_by_shape(shapes)
        self.changes = nn.ParameterList(
            nn.Parameter(torch.zeros(len(paths), *shape)) for paths, shape in self.shapes.items()
        )

    def forward(self, generator: torch.Generator) -> Deltas:
        """The deltas; nothing in them is random."""
        return self.folded()

    def folded(self) -> Deltas:
        """The deltas."""
        return Deltas(dict(zip(self.shapes, self.changes, strict=True)))

    def groups(self) -> ParameterGroups:
        """Everything, at one rate."""
        return [{"params": [*self.changes], "lr": self.learning_rate}]

    def measures(self) -> Mapping[str, Tensor]:
        """Nothing worth watching."""
        return {}


class MeasuredFull(Measured, Full):
    """The same, with how much earlier tasks need each entry: the change itself goes on in the weights."""

    kinds = ("full",)

    def __init__(self, shapes: Mapping[str, Shape], learning_rate: float, state: State) -> None:
        """Begin with no change, and with what earlier tasks need.

        Raises:
            UsageError: The state is of other weights.
        """
        super().__init__(shapes, learning_rate)
        self.remember(state)

    @property
    def factors(self) -> list[Tensor]:
        """The changes, those of one shape together."""
        return [*self.changes]
