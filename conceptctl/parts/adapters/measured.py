"""What an adapter remembers of earlier tasks: how much they need each of its entries.

The Fisher matrix is its diagonal (Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting", section 2), added up
batch after batch in one vector as long as the adapter: no sample's and no batch's own is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from conceptctl.errors import UsageError
from conceptctl.learning.method import State
from conceptctl.learning.weights import Paths, Shape

FISHER = "fisher_"
"""What the kinds of a Fisher matrix's entries begin with, one for each kind of factor."""


class Measured(nn.Module):
    """Comes before an adapter among the bases of a class, which says what its factors are.

    Whatever is kept of all entries at once is one vector, in the order of `factors`.
    """

    kinds: ClassVar[tuple[str, ...]]
    """What the factors are called in a state, `KIND/PATH`."""
    shapes: dict[Paths, Shape]
    start: Tensor
    fisher: Tensor
    squares: Tensor
    counted: Tensor

    @property
    def factors(self) -> list[Tensor]:
        """All that trains, kind after kind, those of one shape together: (n, ...)."""
        raise NotImplementedError

    @classmethod
    def state_kinds(cls) -> tuple[str, ...]:
        """What the Fisher matrix's entries are called in a state."""
        return tuple(FISHER + kind for kind in cls.kinds)

    def remember(self, state: State) -> None:
        """Take up what earlier tasks need, where they have measured it; the factors are where the task begins.

        Raises:
            UsageError: The state is of another rank, or of other weights.
        """
        fisher = [torch.zeros_like(factor) for factor in self.factors]
        self.has_fisher = any(name.startswith(FISHER) for name in state)
        """Whether an earlier task measured what it needs."""
        if self.has_fisher:
            self._take(state, FISHER, fisher)
        # These follow from the store, and are no state of the training; the others are.
        self.register_buffer("start", self.flat().detach().clone(), persistent=False)
        self.register_buffer("fisher", _flat(fisher).detach(), persistent=False)
        self.register_buffer("squares", torch.zeros_like(self.start))
        self.register_buffer("counted", torch.zeros(()))

    def flat(self) -> Tensor:
        """All entries of the factors, with their graph."""
        return _flat(self.factors)

    def add_squares(self) -> None:
        """Add up the squares of the gradients that the factors have."""
        for factor, into in zip(self.factors, self._unflat(self.squares), strict=True):
            if factor.grad is not None:
                into.add_(factor.grad.square())
        self.counted += 1

    def state(self, fisher: Tensor | None) -> dict[str, Tensor]:
        """The Fisher matrix of all tasks, by kind and path; nothing where there is none."""
        return {} if fisher is None else self._named(self._unflat(fisher), FISHER)

    def _unflat(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split([factor.numel() for factor in self.factors])
        return [part.view_as(factor) for part, factor in zip(parts, self.factors, strict=True)]

    def _kinds(self, prefix: str) -> list[tuple[str, Paths]]:
        return [(prefix + kind, paths) for kind in self.kinds for paths in self.shapes]

    def _named(self, values: Sequence[Tensor], prefix: str) -> dict[str, Tensor]:
        return {
            f"{kind}/{path}": matrix.detach()
            for (kind, paths), stack in zip(self._kinds(prefix), values, strict=True)
            for path, matrix in zip(paths, stack.unbind(), strict=True)
        }

    def _take(self, state: State, prefix: str, values: Sequence[Tensor]) -> None:
        for (kind, paths), into in zip(self._kinds(prefix), values, strict=True):
            found = [state[f"{kind}/{path}"] for path in paths if f"{kind}/{path}" in state]
            # One of rank 1 would fit any other by being repeated.
            if len(found) != len(paths) or any(each.shape != into.shape[1:] for each in found):
                raise UsageError(
                    "the adapter that this one goes on from has another rank, or is for other weights",
                    hint="--rank as the concepts before it had it: conceptctl show NAME",
                )
            into.copy_(torch.stack(found))


def _flat(values: Sequence[Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in values])
