"""One adapter that goes on from task to task: the increment is its product less the one that it began with.

EWC, EWC-DC, DSC and VeRA keep a single adapter for all concepts ("Mining your own secrets", section 3): each task's
starts from the one before it. In a store every concept has an increment of its own, whose sum is that adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from conceptctl.learning.method import Earlier, Learned, Method, State, Task, Trainable
from conceptctl.learning.weights import Deltas, Paths, Products, Shape
from conceptctl.parts.adapters.low_rank import LowRank
from conceptctl.parts.adapters.measured import Measured
from conceptctl.parts.adapters.vera import Vera
from conceptctl.parts.tokens import TokenEmbedding


class Continued(Measured):
    """The factors as an earlier task left them; comes before an adapter among the bases of a class."""

    teacher: Tensor

    def __init__(
        self, shapes: Mapping[str, Shape], rank: int, learning_rate: float, *, generator: torch.Generator, state: State
    ) -> None:
        """Go on from a state, or begin as such adapters do where it is empty.

        Raises:
            UsageError: The state is of another rank.
        """
        super().__init__(shapes, rank, learning_rate, generator=generator)
        if state:
            with torch.no_grad():
                self._take(state, "", self.factors)
        self.remember(state)
        self.register_buffer("teacher", torch.zeros_like(self.start))

    def forward(self, generator: torch.Generator) -> Deltas:
        """The increment, which nothing is random in: what the adapter began as is in the weights already."""
        return self._increment(self.factors)

    def folded(self) -> Deltas:
        """The increment."""
        return self._increment(self.factors)

    def increment_of(self, flat: Tensor) -> Deltas:
        """The increment of other factors than those of now, given as one vector."""
        return self._increment(self._unflat(flat))

    def remember_teacher(self) -> None:
        """Keep the factors of now as the teacher's."""
        self.teacher.copy_(self.flat().detach())

    def state(self, fisher: Tensor | None) -> dict[str, Tensor]:
        """What the next task goes on from: the factors and, where there is one, the Fisher matrix of all tasks."""
        return self._named(self.factors, "") | super().state(fisher)

    def _increment(self, factors: Sequence[Tensor]) -> Deltas:
        """What factors make, less what those of the start do; (D1, D2) by path."""
        raise NotImplementedError


class ContinuedLowRank(Continued, LowRank):
    """One low-rank adapter: A B - A* B*, with A* B* what it began as."""

    kinds = ("up", "down")

    @property
    def factors(self) -> list[Tensor]:
        """Every A, those of one shape together, and then every B."""
        return [*self.up, *self.down]

    def products_of(self, factors: Sequence[Tensor]) -> dict[Paths, Tensor]:
        """A B, (n, D1, D2) for the matrices of each shape."""
        ups, downs = factors[: len(self.up)], factors[len(self.up) :]
        return {paths: up @ down for paths, up, down in zip(self.shapes, ups, downs, strict=True)}

    def folded(self) -> Deltas:
        """The increment, and its factors: those of now beside those of the start, which are taken away."""
        now, before = self.factors, self._unflat(self.start)
        count = len(self.up)
        ups = [torch.cat([after, -start], dim=2) for after, start in zip(now[:count], before[:count], strict=True)]
        downs = [torch.cat(pair, dim=1) for pair in zip(now[count:], before[count:], strict=True)]
        products = {paths: Products(*pair) for paths, *pair in zip(self.shapes, ups, downs, strict=True)}
        return Deltas(super().folded().stacks, products)

    def _increment(self, factors: Sequence[Tensor]) -> Deltas:
        now, before = self.products_of(factors), self.products_of(self._unflat(self.start))
        return Deltas({paths: product - before[paths] for paths, product in now.items()})


class ContinuedVera(Continued, Vera):
    """One VeRA adapter: its vectors go on, its projections are the same for ever."""

    kinds = ("vera_up", "vera_down")

    @property
    def factors(self) -> list[Tensor]:
        """Every vector b, those of one shape together, and then every d."""
        return [*self.up_scales, *self.down_scales]

    def _increment(self, factors: Sequence[Tensor]) -> Deltas:
        """The increment, and its factors: both products have A in common, so that it is of their rank."""
        now, before = self.products(factors), self.products(self._unflat(self.start))
        made = {paths: Products(each.up - before[paths].up, each.down) for paths, each in now.items()}
        return Deltas({paths: each.up @ each.down for paths, each in made.items()}, made)


def last_continued(earlier: Sequence[Earlier], kinds: Sequence[str]) -> Earlier | None:
    """The last earlier task that left state of all of these kinds."""
    return next((each for each in reversed(earlier) if each.kinds.issuperset(kinds)), None)


class ContinuedMethod(Method):
    """A method whose one adapter goes on from task to task."""

    prompt = "a photo of a {token}"
    adapter: ClassVar[type[Continued]] = ContinuedLowRank
    """Which adapter."""

    def check(self, earlier: Sequence[Earlier], shapes: Mapping[str, Shape]) -> None:
        """Refuse another rank than that of the adapter to go on with.

        Raises:
            UsageError: It is of another rank.
        """
        if last_continued(earlier, self.adapter.kinds):
            self._go_on(earlier, shapes, seed=0)

    def attach(self, task: Task) -> Trainable:
        """Go on with the last adapter of this kind, or begin one; and make a token row.

        Raises:
            UsageError: That one is of another rank.
        """
        adapter = self._go_on(task.earlier, task.shapes, task.seed)
        return Trainable(adapter, TokenEmbedding(task.token_start), self.config.token_learning_rate)

    def _go_on(self, earlier: Sequence[Earlier], shapes: Mapping[str, Shape], seed: int) -> Any:
        before = last_continued(earlier, self.adapter.kinds)
        state = before.state() if before else {}
        generator = torch.Generator().manual_seed(seed)
        # Any: a type checker sees what all kinds share, and that is no adapter.
        return self.adapter(shapes, self.config.rank, self.config.learning_rate, generator=generator, state=state)

    def finish(self, task: Task, trainable: Trainable) -> Learned:
        """The increment, and the adapter."""
        return finish_continued(task, trainable)


def continued(trainable: Trainable) -> Continued:
    """The adapter of what a `ContinuedMethod` attached."""
    assert isinstance(trainable.adapter, Continued)
    return trainable.adapter


def finish_continued(task: Task, trainable: Trainable, fisher: Tensor | None = None) -> Learned:
    """What is kept of it: the increment, and the state that the next task goes on from."""
    adapter = continued(trainable)
    before = last_continued(task.earlier, adapter.kinds)
    contains = (*before.contains, before.uid) if before else ()
    if fisher is None and adapter.has_fisher:
        # What earlier tasks need is not lost because this one did not measure its own.
        fisher = adapter.fisher
    return Learned(trainable.folded(), trainable.tokens(), adapter.state(fisher), contains)
