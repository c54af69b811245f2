"""Low-rank adapters: a delta A B for every target (Hu et al. 2022, "LoRA", eq. 3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from conceptctl.learning.method import ParameterGroups
from conceptctl.learning.weights import Deltas, Paths, Shape, grouped_by_shape


def preconditioner(factor: Tensor, damping: float) -> Tensor:
    """Make coordinates of hidden states in which those of other prompts are small.

    What steps of one size do to keys and values is in proportion to the hidden states, and most of what any prompt's
    have lies in few directions that all prompts share. A step in these coordinates changes little there.

    Args:
        factor: R of shape (D, k), R R^T being the second moment of the states of other prompts.
        damping: kappa; 0 leaves coordinates as they are.

    Returns:
        P = (I + kappa R R^T / m)^(-1/2), (D, D), with m the mean of the moment's eigenvalues.
    """
    values, directions = torch.linalg.eigh(factor.double() @ factor.double().T)
    scales = (1 + damping * values.clamp(min=0) / values.mean()).rsqrt()
    scaled: Tensor = (directions * scales) @ directions.T
    return scaled.float()


class LowRank(nn.Module):
    """A: D1 x r and B: r x D2 for each projection; the delta is their product, unscaled as in STAMINA eq. 5.

    Those of projections of one shape are one parameter: `up` has (n, D1, r), `down` (n, r, D2).
    """

    preconditioner: Tensor | None

    def __init__(
        self,
        shapes: Mapping[str, Shape],
        rank: int,
        learning_rate: float,
        *,
        generator: torch.Generator,
        init_std: float = 0.0,
        preconditioner: Tensor | None = None,
    ) -> None:
        """Make the adapters: B is random, and so is A where `init_std` is not 0.

        Args:
            shapes: The targets, (D1, D2) by path.
            rank: r; no larger than a projection allows.
            learning_rate: Of both factors.
            generator: Source of the first values.
            init_std: Deviation of the first A. At 0 the first delta is 0, and so is the gradient of a mask over it.
            preconditioner: P of shape (D2, D2), the coordinates that B trains in: what is multiplied is A (B P); see
                the function of that name.
        """
        super().__init__()
        # It follows from the store, and is no state of the training.
        self.register_buffer("preconditioner", preconditioner, persistent=False)
        self.learning_rate = learning_rate
        self.shapes = grouped_by_shape(shapes)
        sizes = [(len(paths), *shape, min(rank, *shape)) for paths, shape in self.shapes.items()]
        self.up = nn.ParameterList(
            nn.Parameter(init_std * torch.randn(count, rows, r, generator=generator)) for count, rows, _, r in sizes
        )
        self.down = nn.ParameterList(
            # The uniform values that LoRA's authors begin with.
            nn.Parameter((2 * torch.rand(count, r, columns, generator=generator) - 1) / columns**0.5)
            for count, _, columns, r in sizes
        )

    def forward(self, generator: torch.Generator) -> Deltas:
        """The deltas; nothing in them is random."""
        return self.folded()

    def folded(self) -> Deltas:
        """The deltas."""
        return Deltas(self.products())

    def products(self) -> dict[Paths, Tensor]:
        """A B for each projection, those of one shape together, (n, D1, D2)."""
        return {paths: up @ down for paths, (up, down) in zip(self.shapes, self.pairs(), strict=True)}

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """A (n, D1, r) and B P (n, r, D2), those of one shape together."""
        return list(zip(self.up, self._down(), strict=True))

    def factors_by_path(self, up_kind: str, down_kind: str) -> dict[str, Tensor]:
        """A (D1, r) and B P (r, D2) of each projection, as a state: `KIND/PATH`."""
        kinds = ((up_kind, list(self.up)), (down_kind, self._down()))
        return {
            f"{kind}/{path}": matrix.detach()
            for kind, stacks in kinds
            for paths, stack in zip(self.shapes, stacks, strict=True)
            for path, matrix in zip(paths, stack.unbind(), strict=True)
        }

    def _down(self) -> list[Tensor]:
        """B P for each projection, those of one shape together, (n, r, D2)."""
        if self.preconditioner is None:
            return list(self.down)
        # One product of all of them: P is read once.
        shared = torch.cat([each.flatten(0, 1) for each in self.down]) @ self.preconditioner
        parts = shared.split([each.shape[0] * each.shape[1] for each in self.down])
        return [part.view_as(each) for part, each in zip(parts, self.down, strict=True)]

    def groups(self) -> ParameterGroups:
        """Both factors, at one rate."""
        return [{"params": [*self.up, *self.down], "lr": self.learning_rate, "factors": True}]

    def measures(self) -> Mapping[str, Tensor]:
        """Nothing worth watching."""
        return {}
