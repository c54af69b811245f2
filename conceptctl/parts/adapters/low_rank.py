"""Low-rank adapters: a delta A B for every projection (Hu et al. 2022, "LoRA", eq. 3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from conceptctl.diffusion.fit import ParameterGroups
from conceptctl.diffusion.projections import Places, Shape, Stacks, alike


def damped(states: Tensor, damping: float) -> Tensor:
    """Make coordinates of hidden states in which those of other prompts are small.

    What steps of one size do to keys and values is in proportion to the hidden states, and most of what any prompt's
    have lies in few directions that all prompts share. A step in these coordinates changes little there.

    Args:
        states: R of shape (D, k), R R^T being the second moment of the states of other prompts.
        damping: kappa; 0 leaves coordinates as they are.

    Returns:
        P = (I + kappa R R^T / m)^(-1/2), (D, D), with m the mean of the moment's eigenvalues.
    """
    values, directions = torch.linalg.eigh(states.double() @ states.double().T)
    sizes = (1 + damping * values.clamp(min=0) / values.mean()).rsqrt()
    scaled: Tensor = (directions * sizes) @ directions.T
    return scaled.float()


class LowRank(nn.Module):
    """A: D1 x r and B: r x D2 for each projection; the delta is their product, unscaled as in STAMINA eq. 5.

    Those of projections of one shape are one parameter: `up` has (n, D1, r), `down` (n, r, D2).
    """

    inputs: Tensor | None

    def __init__(
        self,
        shapes: Mapping[str, Shape],
        rank: int,
        learning_rate: float,
        *,
        generator: torch.Generator,
        start: float = 0.0,
        inputs: Tensor | None = None,
    ) -> None:
        """Make the adapters: B is random, and so is A where `start` is not 0.

        Args:
            shapes: The projections, (D1, D2) by place.
            rank: r; no larger than a projection allows.
            learning_rate: Of both factors.
            generator: Source of the first values.
            start: Deviation of the first A. At 0 the first delta is 0, and so is the gradient of a mask over it.
            inputs: P of shape (D2, D2), the coordinates that B trains in: what is multiplied is A (B P). See `damped`.
        """
        super().__init__()
        # It follows from the store, and is no state of the training.
        self.register_buffer("inputs", inputs, persistent=False)
        self.learning_rate = learning_rate
        self.shapes = alike(shapes)
        sizes = [(len(places), *shape, min(rank, *shape)) for places, shape in self.shapes.items()]
        self.up = nn.ParameterList(
            nn.Parameter(start * torch.randn(count, rows, r, generator=generator)) for count, rows, _, r in sizes
        )
        self.down = nn.ParameterList(
            # The uniform values that LoRA's authors begin with.
            nn.Parameter((2 * torch.rand(count, r, columns, generator=generator) - 1) / columns**0.5)
            for count, _, columns, r in sizes
        )

    def forward(self, generator: torch.Generator) -> Stacks:
        """The deltas; nothing in them is random."""
        return self.folded()

    def folded(self) -> Stacks:
        """The deltas."""
        return Stacks(self.products())

    def products(self) -> dict[Places, Tensor]:
        """A B for each projection, those of one shape together, (n, D1, D2)."""
        return {places: up @ down for places, up, down in zip(self.shapes, self.up, self._down(), strict=True)}

    def _down(self) -> list[Tensor]:
        """B P for each projection, those of one shape together, (n, r, D2)."""
        if self.inputs is None:
            return list(self.down)
        # One product of all of them: P is read once.
        shared = torch.cat([each.flatten(0, 1) for each in self.down]) @ self.inputs
        parts = shared.split([each.shape[0] * each.shape[1] for each in self.down])
        return [part.view_as(each) for part, each in zip(parts, self.down, strict=True)]

    def groups(self) -> ParameterGroups:
        """Both factors, at one rate."""
        return [{"params": [*self.up, *self.down], "lr": self.learning_rate, "factors": True}]

    def measures(self) -> Mapping[str, Tensor]:
        """Nothing worth watching."""
        return {}
