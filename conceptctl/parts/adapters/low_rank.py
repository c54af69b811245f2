"""Low-rank adapters: a delta A B for every target (Hu et al. 2022, "LoRA", eq. 3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from conceptctl.learning.method import Config, ParameterGroups, Task, Trainable
from conceptctl.learning.weights import Deltas, Paths, Products, Shape, grouped_by_shape
from conceptctl.parts.tokens import TokenEmbedding


class LowRank(nn.Module):
    """A: D1 x r and B: r x D2 for each projection; the delta is their product, unscaled as in STAMINA eq. 5.

    Those of projections of one shape are one parameter: `up` has (n, D1, r), `down` (n, r, D2).
    """

    def __init__(
        self,
        shapes: Mapping[str, Shape],
        rank: int,
        learning_rate: float,
        *,
        generator: torch.Generator,
        init_std: float = 0.0,
    ) -> None:
        """Make the adapters: B is random, and so is A where `init_std` is not 0.

        Args:
            shapes: The targets, (D1, D2) by path.
            rank: r; no larger than a projection allows.
            learning_rate: Of both factors.
            generator: Source of the first values.
            init_std: Deviation of the first A. At 0 the first delta is 0, and so is the gradient of a mask over it.
        """
        super().__init__()
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
        return Deltas(self.products())

    def folded(self) -> Deltas:
        """The deltas, and their factors."""
        pairs = zip(self.shapes, self.pairs(), strict=True)
        return Deltas(self.products(), {paths: Products(*pair) for paths, pair in pairs})

    def products(self) -> dict[Paths, Tensor]:
        """A B for each projection, those of one shape together, (n, D1, D2)."""
        return {paths: up @ down for paths, (up, down) in zip(self.shapes, self.pairs(), strict=True)}

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """A (n, D1, r) and B (n, r, D2), those of one shape together."""
        return list(zip(self.up, self.down, strict=True))

    def factors_by_path(self, up_kind: str, down_kind: str) -> dict[str, Tensor]:
        """A (D1, r) and B (r, D2) of each projection, as a state: `KIND/PATH`."""
        kinds = ((up_kind, list(self.up)), (down_kind, list(self.down)))
        return {
            f"{kind}/{path}": matrix.detach()
            for kind, stacks in kinds
            for paths, stack in zip(self.shapes, stacks, strict=True)
            for path, matrix in zip(paths, stack.unbind(), strict=True)
        }

    def groups(self) -> ParameterGroups:
        """Both factors, at one rate."""
        return [{"params": [*self.up, *self.down], "lr": self.learning_rate, "factors": True}]

    def measures(self) -> Mapping[str, Tensor]:
        """Nothing worth watching."""
        return {}


def attach_low_rank(task: Task, config: Config) -> Trainable:
    """Low-rank adapters for all targets, and a token row: what a method without more to it attaches."""
    generator = torch.Generator().manual_seed(task.seed)
    adapter = LowRank(task.shapes, config.rank, config.learning_rate, generator=generator)
    return Trainable(adapter, TokenEmbedding(task.token_start), config.token_learning_rate)
