"""Low-rank adapters: a delta A B for every projection (Hu et al. 2022, "LoRA", eq. 3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from conceptctl.diffusion.fit import ParameterGroups
from conceptctl.diffusion.projections import Deltas


class LowRank(nn.Module):
    """A: D1 x r and B: r x D2 for each projection; the delta is their product, unscaled as in STAMINA eq. 5."""

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        rank: int,
        learning_rate: float,
        *,
        generator: torch.Generator,
        start: float = 0.0,
    ) -> None:
        """Make the adapters: B is random, and so is A where `start` is not 0.

        Args:
            shapes: The projections, (D1, D2) by place.
            rank: r; no larger than a projection allows.
            learning_rate: Of both factors.
            generator: Source of the first values.
            start: Deviation of the first A. At 0 the first delta is 0, and so is the gradient of a mask over it.
        """
        super().__init__()
        self.places = tuple(shapes)
        self.learning_rate = learning_rate
        ranks = [min(rank, *shape) for shape in shapes.values()]
        self.up = nn.ParameterList(
            nn.Parameter(start * torch.randn(shape[0], r, generator=generator))
            for shape, r in zip(shapes.values(), ranks, strict=True)
        )
        self.down = nn.ParameterList(
            # The uniform values that LoRA's authors begin with.
            nn.Parameter((2 * torch.rand(r, shape[1], generator=generator) - 1) / shape[1] ** 0.5)
            for shape, r in zip(shapes.values(), ranks, strict=True)
        )

    def forward(self, generator: torch.Generator) -> Deltas:
        """The deltas, by place; nothing in them is random."""
        return self.folded()

    def folded(self) -> Deltas:
        """The deltas, by place."""
        return dict(zip(self.places, self.products(), strict=True))

    def products(self) -> list[Tensor]:
        """A B for each projection, (D1, D2)."""
        return [up @ down for up, down in zip(self.up, self.down, strict=True)]

    def groups(self) -> ParameterGroups:
        """Both factors, at one rate."""
        return [{"params": [*self.up, *self.down], "lr": self.learning_rate, "factors": True}]

    def measures(self) -> Mapping[str, Tensor]:
        """Nothing worth watching."""
        return {}
