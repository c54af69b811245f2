"""One portion of a training step: what is drawn for it, and what is asked of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from conceptctl.learning.backbone import Noised
from conceptctl.learning.method import Predicted
from conceptctl.learning.processes import part_of
from conceptctl.learning.weights import Deltas

if TYPE_CHECKING:
    from conceptctl.learning.run import Run


class BatchStep:
    """One portion of a step: what is drawn for it, and what is asked of it.

    Samples of one shape go through the network together, those of each shape after those of another.
    """

    divided = 1
    """In how many parts the portion goes through the network, one after the other."""

    def __init__(self, run: Run, generator: torch.Generator) -> None:
        self.run, self.generator = run, generator
        schedule = run.phase.schedule
        self.progress = run.done / run.length
        chosen = run.examples.choose(schedule.batch_size, schedule.auxiliary_batch, generator)
        self.count = len(chosen)
        groups = run.examples.by_shape(chosen)
        # Every process draws all of the noise, so that each draws the same.
        noised = [run.objective.corrupt(latents, generator) for _, latents in groups]
        self.chosen = torch.cat([indices for indices, _ in groups])
        self.noised: list[Noised] = noised
        """Those of each shape; in the order of `chosen`."""
        if run.accelerator.num_processes > 1:
            self._keep(part_of(run.accelerator, self.count))

    def _keep(self, part: slice) -> None:
        """Leave some of the samples only: of those of each shape what is in the part."""
        counts = [len(each.timesteps) for each in self.noised]
        self.chosen = self.chosen[part]
        self.noised = [
            self.noised[index]
            if own == slice(0, counts[index])
            else self.run.objective.part_of(self.noised[index], own)
            for index, own in _parts(part, counts)
        ]

    def parts(self, count: int) -> Iterator[BatchStep]:
        """The same portion in so many parts, where memory does not hold all of it.

        All of them share what is drawn: noise, times, and the deltas, which each draws again as the others do. So the
        sum of their gradients is that of the whole, but for rounding.
        """
        if count == 1:
            yield self
            return
        random, size = self.generator.get_state(), len(self.chosen)
        for index in range(count):
            self.generator.set_state(random)
            part = copy.copy(self)
            of_all = slice(size * index // count, size * (index + 1) // count)
            part.divided = count
            part._keep(of_all)
            yield part

    @cached_property
    def deltas(self) -> Deltas:
        """The step's deltas, drawn once, with their graph."""
        return self.run.trainable.deltas(self.generator)

    def predict(self, prompt: str | None = None, *, deltas: Deltas | None = None) -> Predicted:
        """Run the network on the batch; see `Step`."""
        if deltas is None:
            return self._predict(prompt, self.deltas)
        with torch.no_grad():
            predicted = self._predict(prompt, deltas)
        # Whatever is computed again on the way back must find the step's own deltas.
        self.run.put(self.deltas)
        return predicted

    def _predict(self, prompt: str | None, deltas: Deltas) -> Predicted:
        run = self.run
        run.put(deltas)
        run.tokens.rows = run.trainable.tokens()
        condition = (
            run.conditions.of_examples(self.chosen) if prompt is None else run.conditions.of_prompt(prompt, self.chosen)
        )
        if len(self.noised) == 1:
            return run.objective.predict(self.noised[0], condition)
        ends = list(accumulate(len(each.timesteps) for each in self.noised))
        places = map(slice, [0, *ends], ends)
        return tuple(
            run.objective.predict(noised, condition[place]) for noised, place in zip(self.noised, places, strict=True)
        )

    def errors(self, predicted: Predicted) -> Tensor:
        """The mean squared error of each sample; see `Step`."""
        return _over_shapes(self.run.objective.errors, predicted, self.noised)

    def differences(self, first: Predicted, second: Predicted) -> Tensor:
        """The mean squared difference of two predictions of each sample; see `Step`."""
        return _over_shapes(_mean_squared_difference, first, second)

    def loss(self) -> Tensor:
        """Predict, and return each sample's loss; see `Step`."""
        return _over_shapes(self.run.objective.loss, self.predict(), self.noised)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of one value a sample over the whole batch; see `Step`."""
        parts = self.run.accelerator.num_processes * self.divided
        # The mean over processes and parts, which gradients get, of this is that of all samples, however unequal those.
        return values.mean() if parts == 1 else values.sum() * (parts / self.count)


def _parts(part: slice, counts: Sequence[int]) -> list[tuple[int, slice]]:
    """A part of a batch in groups of so many samples: of which groups it has which samples."""
    begins = accumulate(counts, initial=0)
    found = [
        (index, slice(max(0, part.start - begin), min(count, part.stop - begin)))
        for index, (begin, count) in enumerate(zip(begins, counts, strict=False))
    ]
    return [(index, own) for index, own in found if own.start < own.stop]


def _over_shapes(of: Callable[[Tensor, Any], Tensor], predicted: Predicted, other: Any) -> Tensor:
    """Ask something of the samples of each shape, and put the answers (b,) behind one another: (B,)."""
    if isinstance(predicted, Tensor):
        return of(predicted, other if isinstance(other, Tensor) else other[0])
    return torch.cat([of(*each) for each in zip(predicted, other, strict=True)])


def _mean_squared_difference(first: Tensor, second: Tensor) -> Tensor:
    return functional.mse_loss(first, second, reduction="none").flatten(1).mean(dim=1)
