"""One training under way: what a phase has, a step of it, and what is asked of the step."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from conceptctl.errors import DeviceFailed
from conceptctl.learning.backbone import Conditions, Network, Noised, Objective
from conceptctl.learning.checkpoint import TrainingState, restore, tensors_of
from conceptctl.learning.examples import Examples
from conceptctl.learning.method import Losses, Phase, Predicted, Schedule, Trainable
from conceptctl.learning.optim import leaves_out, make_optimizers, make_schedules
from conceptctl.learning.processes import agree, casts, part_of
from conceptctl.learning.scaling import LossScaler
from conceptctl.learning.weights import Adapted, Deltas, TokenOverride

if TYPE_CHECKING:
    from accelerate import Accelerator

CURVE_POINTS = 50
_PHASE_SEEDS = 100_000
"""Seeds of steps that each phase has for itself."""


@dataclass(frozen=True)
class Report:
    """How a training stands."""

    step: int
    """Of the phase."""
    losses: Mapping[str, float]
    """Means since the last report."""
    measures: Mapping[str, float]
    seconds: float
    """Since this phase began; an interrupted one counts from where it was taken up."""


class Run:
    """One training under way."""

    phase: Phase
    objective: Objective
    conditions: Conditions

    def __init__(
        self,
        backbone: Network,
        weights: Adapted,
        tokens: TokenOverride,
        trainable: Trainable,
        examples: Examples,
        accelerator: Accelerator,
        micro_batch: int | None = None,
    ) -> None:
        """See `loop.train`."""
        self.backbone, self.weights, self.tokens = backbone, weights, tokens
        self.trainable, self.examples, self.accelerator = trainable, examples, accelerator
        self.micro_batch = micro_batch
        self.sums: dict[str, Tensor] = {}
        self.counted = self.step = self.begin = self.index = 0
        self.curve: list[float] = []
        self.is_between_steps = True
        """Whether what is here is what so many whole steps left."""
        self._to_restore: Mapping[str, Tensor] = {}
        self.optimizers: list[torch.optim.Optimizer] = []
        self.scaler: LossScaler | None = None

    def take_up(self, state: TrainingState) -> None:
        """Go on from a state; its tensors are put back when the phase is there that they are of."""
        self.step, self.counted, self.curve = state.step, state.counted, list(state.curve)
        self._to_restore = state.tensors

    def enter(self, phase: Phase, begin: int, index: int) -> None:
        """Begin a phase, or go on in it.

        Args:
            phase: The phase.
            begin: How many steps the phases before it have.
            index: Its place among all phases.
        """
        schedule = phase.schedule
        self.phase, self.begin, self.index = phase, begin, index
        self._make_objective(schedule)
        halved = any(module.weight.dtype == torch.float16 for module in self.backbone.targets().values())
        self.scaler = LossScaler(self.accelerator.device) if halved else None
        self.optimizers = [] if phase.gradients else make_optimizers(phase.trains, schedule.optimizer)
        trained = [parameter for group in phase.trains for parameter in group["params"]]
        for parameter in self.trainable.parameters():
            parameter.requires_grad_(any(parameter is each for each in trained))
        self.trained = trained
        self.restore_weights()
        if not any(parameter.requires_grad for parameter in self.trainable.token.parameters()):
            # No row changes any more: every prompt is encoded once.
            self.tokens.rows = self.trainable.tokens()
            self.conditions = self.backbone.conditions(self.examples.prompts, (), self.examples.crops)
        self.schedules = make_schedules(self.optimizers, schedule, self.step - begin)

    def _make_objective(self, schedule: Schedule) -> None:
        """Make conditions and objective, the same in a resumed run: of the model as it was before the training."""
        self.tokens.rows = {}
        self.weights.put(Deltas())
        examples = self.examples
        self.conditions = self.backbone.conditions(examples.prompts, self.tokens.token_ids, examples.crops)
        batch = schedule.batch_size + schedule.auxiliary_batch
        portion = min(batch, self.micro_batch or batch)
        self.objective = self.backbone.objective(schedule.noising(), autocast=self.accelerator.autocast)
        if schedule.timestep_sampling == "importance":
            shown, latents = examples.shown()
            self.objective.importance_sample(latents, self.conditions.of_examples(shown), portion)

    def restore_weights(self) -> None:
        """Put back what an earlier run had reached, once; of the optimizers, what those of now train."""
        tensors, self._to_restore = self._to_restore, {}
        if tensors:
            self.sums = restore(tensors, self.trainable, self._optimizer_of())
            if self.scaler:
                kept = {name: each for name, each in tensors.items() if name.startswith("scaling/")}
                self.scaler.restore({name.removeprefix("scaling/"): each for name, each in kept.items()})

    def _optimizer_of(self) -> dict[Tensor, torch.optim.Optimizer]:
        return {
            parameter: optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }

    @property
    def done(self) -> int:
        """Steps of the phase that are done."""
        return self.step - self.begin

    @property
    def end(self) -> int:
        """Where the phase ends."""
        return self.begin + self.phase.schedule.steps

    def generator(self) -> torch.Generator:
        """Where all that is random in a step comes from."""
        return torch.Generator().manual_seed(
            _step_seed(self.phase.schedule.seed, self.done + _PHASE_SEEDS * self.index)
        )

    def gradients(self) -> dict[str, Tensor]:
        """Leave one step's gradients on the parameters, and return its losses."""
        generator, portions = self.generator(), self.phase.schedule.accumulation
        means: dict[str, Tensor] = {}
        for _ in range(portions):
            step = BatchStep(self, generator)
            parts = self.micro_batches(step.count)
            self.accelerator.gradient_accumulation_steps = portions * parts
            for part in step.parts(parts):
                losses = self._losses(part)
                # A part that holds auxiliary samples alone may depend on nothing that trains.
                if losses["loss"].requires_grad:
                    loss = losses["loss"]
                    self.accelerator.backward(self.scaler.scaled(loss) if self.scaler else loss)
                means = {
                    name: means.get(name, 0) + value.detach() / (portions * parts) for name, value in losses.items()
                }
        return means

    def micro_batches(self, count: int) -> int:
        """In how many parts a batch of so many goes through the network, the same in every process."""
        processes: int = self.accelerator.num_processes
        smallest, largest = count // processes, -(-count // processes)
        # No part may be empty.
        return max(1, min(smallest, -(-largest // (self.micro_batch or largest))))

    def _losses(self, step: BatchStep) -> dict[str, Tensor]:
        """The losses of one portion, with a graph behind "loss"."""
        losses = self.phase.loss(step)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def agree(self, flags: Sequence[bool]) -> list[bool]:
        """Average the gradients over processes, and find which flags any of them has raised."""
        for parameter in self.trained:
            if parameter.grad is None:
                # No sample of this process's part needed it.
                parameter.grad = torch.zeros_like(parameter)
        return agree(self.accelerator, [parameter.grad for parameter in self.trained], flags)

    def update(self, losses: Losses) -> None:
        """Take the step whose gradients are there."""
        self.is_between_steps = False
        if self.scaler:
            self.scaler.unscale(self.trained)
            self.scaler.update(self.optimizers)
        if self.phase.gradients:
            self.phase.gradients()
            for parameter in self.trained:
                parameter.grad = None
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            # One that cannot leave out a step by itself waits here for the device, with scaled losses only.
            if not self.scaler or leaves_out(optimizer) or not self.scaler.found_inf.item():
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
        self.step += 1
        for name, value in losses.items():
            known = self.sums.get(name)
            self.sums[name] = value if known is None else known + value
        self.counted += 1
        self.is_between_steps = True

    def drop_gradients(self) -> None:
        """Forget a step that was begun."""
        for parameter in self.trained:
            parameter.grad = None

    def report(self, seconds: float) -> Report:
        """Sum up the steps since the last report."""
        losses = self.check()
        self.sums, self.counted = {}, 0
        every = max(1, self.phase.schedule.steps // CURVE_POINTS)
        if self.index == 0 and (self.done // every > len(self.curve) or self.step == self.end):
            self.curve.append(losses["loss"])
        with torch.no_grad():
            measures = self.trainable.adapter.measures() if self.trainable.adapter else {}
        return Report(self.done, losses, {name: value.item() for name, value in measures.items()}, seconds)

    def check(self) -> dict[str, float]:
        """Return the mean losses since the last report.

        Raises:
            DeviceFailed: They are no numbers, or the weights are none.
        """
        losses = {name: self._over_processes(value).item() / self.counted for name, value in self.sums.items()}
        # A step can spoil the weights before any loss shows it, and a spoiled state would be resumed for ever.
        parameters = self.trainable.parameters()
        sound = torch.stack([parameter.isfinite().all() for parameter in parameters]).all().item()
        if not (sound and all(math.isfinite(value) for value in losses.values())):
            raise DeviceFailed(
                f"the loss became {losses.get('loss') if sound else 'nan'} around step {self.done}; "
                "nothing is committed, and what was saved before stays",
                hint="a smaller --learning-rate; with it the training begins anew",
            )
        return losses

    def _over_processes(self, value: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return value
        mean: Tensor = self.accelerator.reduce(value, "mean")
        return mean

    @torch.no_grad()
    def show(self, preview: Callable[[int], None]) -> None:
        """Let somebody draw with what is learned so far."""
        self.weights.put(self.trainable.folded())
        self.tokens.rows = self.trainable.tokens()
        preview(self.done)
        self.backbone.set_aside()

    def state(self) -> TrainingState:
        """A copy of everything, on the CPU."""
        tensors = tensors_of(self.trainable, self._optimizer_of(), self.sums)
        if self.scaler:
            tensors |= {f"scaling/{name}": each.to("cpu", copy=True) for name, each in self.scaler.state().items()}
        return TrainingState(self.step, tensors, self.counted, list(self.curve))


class BatchStep:
    """One portion of a step: what is drawn for it, and what is asked of it.

    Samples of one shape go through the network together, those of each shape after those of another.
    """

    divided = 1
    """In how many parts the portion goes through the network, one after the other."""

    def __init__(self, run: Run, generator: torch.Generator) -> None:
        self.run, self.generator = run, generator
        schedule = run.phase.schedule
        self.progress = run.done / schedule.steps
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
        self._put(self.deltas)
        return predicted

    def _predict(self, prompt: str | None, deltas: Deltas) -> Predicted:
        run = self.run
        self._put(deltas)
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

    def _put(self, deltas: Deltas) -> None:
        self.run.weights.put(deltas, torch.bfloat16 if casts(self.run.accelerator) else None)

    def errors(self, predicted: Predicted) -> Tensor:
        """The mean squared error of each sample; see `Step`."""
        return _over_shapes(self.run.objective.errors, predicted, self.noised)

    def differences(self, first: Predicted, second: Predicted) -> Tensor:
        """The mean squared difference of two predictions of each sample; see `Step`."""
        return _over_shapes(_mean_squared_difference, first, second)

    def loss(self, prompt: str | None = None, *, deltas: Deltas | None = None) -> Tensor:
        """Predict, and return each sample's loss; see `Step`."""
        return _over_shapes(self.run.objective.loss, self.predict(prompt, deltas=deltas), self.noised)

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


def _step_seed(seed: int, step: int) -> int:
    """A seed for each step of each run: neighbouring runs share no step."""
    return (seed * 1_000_003 + step) & (2**63 - 1)
