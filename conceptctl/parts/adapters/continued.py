"""One low-rank adapter that goes on from task to task: the increment is A B - A* B*, with A* B* what it began as.

EWC, EWC-DC and DSC keep a single adapter for all concepts ("Mining your own secrets", section 3): each task's starts
from the one before it. In a store every concept has an increment of its own, whose sum is that adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from conceptctl.errors import UsageError
from conceptctl.learning.method import Config, Earlier, Learned, State, Task, Trainable
from conceptctl.learning.weights import Deltas, Shape
from conceptctl.parts.adapters.low_rank import LowRank
from conceptctl.parts.tokens import TokenEmbedding

FACTORS = ("up", "down")
FISHER = "fisher_"
"""What the kinds of a Fisher matrix's entries begin with, one for each factor."""


class Continued(LowRank):
    """A and B as an earlier task left them, and how much earlier tasks need each of their entries.

    Whatever is kept of all entries at once is one vector, in the order of `factors`.
    """

    start: Tensor
    fisher: Tensor
    squares: Tensor
    teacher: Tensor
    counted: Tensor

    def __init__(
        self, shapes: Mapping[str, Shape], rank: int, learning_rate: float, *, generator: torch.Generator, state: State
    ) -> None:
        """Go on from a state, or begin as low-rank adapters do where it is empty.

        Raises:
            UsageError: The state is of another rank.
        """
        super().__init__(shapes, rank, learning_rate, generator=generator)
        if state:
            with torch.no_grad():
                self._take(state, "", self.factors)
        size = sum(factor.numel() for factor in self.factors)
        fisher = [torch.zeros_like(factor) for factor in self.factors]
        self.has_fisher = any(name.startswith(FISHER) for name in state)
        """Whether an earlier task measured what it needs."""
        if self.has_fisher:
            self._take(state, FISHER, fisher)
        # These follow from the store, and are no state of the training; the others are.
        self.register_buffer("start", self.flat().detach().clone(), persistent=False)
        self.register_buffer("fisher", _flat(fisher).detach(), persistent=False)
        self.register_buffer("squares", torch.zeros(size))
        self.register_buffer("counted", torch.zeros(()))
        self.register_buffer("teacher", torch.zeros(size))

    @property
    def factors(self) -> list[Tensor]:
        """Every A, those of one shape together, and then every B."""
        return [*self.up, *self.down]

    def flat(self) -> Tensor:
        """All entries of the factors, with their graph."""
        return _flat(self.factors)

    def folded(self) -> Deltas:
        """The increment."""
        now, before = self.products(), self._products_of(self.start)
        return Deltas({paths: product - before[paths] for paths, product in now.items()})

    def increment_of(self, flat: Tensor) -> Deltas:
        """The increment of other factors than those of now, given as one vector."""
        then, before = self._products_of(flat), self._products_of(self.start)
        return Deltas({paths: product - before[paths] for paths, product in then.items()})

    def remember_teacher(self) -> None:
        """Keep the factors of now as the teacher's."""
        self.teacher.copy_(self.flat().detach())

    def add_squares(self) -> None:
        """Add up the squares of the gradients that the factors have."""
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in self.factors]
        self.squares += _flat(gradients).square()
        self.counted += 1

    def state(self, fisher: Tensor | None) -> dict[str, Tensor]:
        """What the next task goes on from: the factors and, where there is one, the Fisher matrix of all tasks."""
        kept = self._named(self.factors, "")
        if fisher is not None:
            kept |= self._named(self._unflat(fisher), FISHER)
        return kept

    def _products_of(self, flat: Tensor) -> dict[tuple[str, ...], Tensor]:
        parts = self._unflat(flat)
        ups, downs = parts[: len(self.up)], parts[len(self.up) :]
        return {paths: up @ down for paths, up, down in zip(self.shapes, ups, downs, strict=True)}

    def _unflat(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split([factor.numel() for factor in self.factors])
        return [part.view_as(factor) for part, factor in zip(parts, self.factors, strict=True)]

    def _kinds(self, prefix: str) -> list[tuple[str, tuple[str, ...]]]:
        return [(prefix + kind, paths) for kind in FACTORS for paths in self.shapes]

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


def last_continued(task: Task) -> Earlier | None:
    """The last earlier task that left such an adapter."""
    return next((each for each in reversed(task.earlier) if each.kinds.issuperset(FACTORS)), None)


def attach_continued(task: Task, config: Config) -> Trainable:
    """Make the adapter that goes on from the last one, and a token row."""
    before = last_continued(task)
    generator = torch.Generator().manual_seed(task.seed)
    state = before.state() if before else {}
    adapter = Continued(task.shapes, config.rank, config.learning_rate, generator=generator, state=state)
    return Trainable(adapter, TokenEmbedding(task.token_start), config.token_learning_rate)


def continued(trainable: Trainable) -> Continued:
    """The adapter of what `attach_continued` made."""
    assert isinstance(trainable.adapter, Continued)
    return trainable.adapter


def finish_continued(task: Task, trainable: Trainable, fisher: Tensor | None = None) -> Learned:
    """What is kept of it: the increment, and the state that the next task goes on from."""
    before, adapter = last_continued(task), continued(trainable)
    contains = (*before.contains, before.uid) if before else ()
    if fisher is None and adapter.has_fisher:
        # What earlier tasks need is not lost because this one did not measure its own.
        fisher = adapter.fisher
    return Learned(trainable.folded(), trainable.tokens(), adapter.state(fisher), contains)
