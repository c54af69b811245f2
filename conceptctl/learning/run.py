"""One training under way: what a phase has, and what its steps do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptctl.errors import DeviceFailed
from conceptctl.learning.backbone import Conditions, Network, Objective
from conceptctl.learning.checkpoint import TrainingState, restore, tensors_of
from conceptctl.learning.examples import Examples
from conceptctl.learning.method import Losses, Phase, Trainable
from conceptctl.learning.optim import leaves_out, make_optimizers, make_schedules
from conceptctl.learning.processes import agree, casts
from conceptctl.learning.scaling import LossScaler
from conceptctl.learning.schedule import Schedule
from conceptctl.learning.step import BatchStep
from conceptctl.learning.stopping import FixedSets, Look, StoppingRule, steps_between
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
        self.rule: StoppingRule | None = None
        """What ends, or ended, the phase that ends by itself."""
        self._best: dict[str, Tensor] = {}
        """Parameters and buffers where the rule saw the least loss, on the CPU."""
        self._sets: FixedSets | None = None

    def take_up(self, state: TrainingState) -> None:
        """Go on from a state; its tensors are put back when the phase is there that they are of."""
        self.step, self.counted, self.curve = state.step, state.counted, list(state.curve)
        self._to_restore = state.tensors
        self.rule = StoppingRule.restored(state.stopping) if state.stopping else None
        best = {name: each for name, each in state.tensors.items() if name.startswith("best/")}
        self._best = {name.removeprefix("best/"): each for name, each in best.items()}

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
        ends_itself = schedule.stopping == "auto"
        if ends_itself:
            self._begin_looking(schedule)
        factor = self.rule.factor if ends_itself and self.rule else None
        self.schedules = make_schedules(self.optimizers, schedule, self.step - begin, factor)

    def _begin_looking(self, schedule: Schedule) -> None:
        """Prepare to find out when a phase ends; its first look is before its first step."""
        # Times drawn alike, whatever is drawn in training: where that draws more, errors count as much less.
        objective = self.backbone.objective(schedule.noising(), autocast=self.accelerator.autocast)
        self._sets = FixedSets.of(objective, self.examples)
        samples = (schedule.batch_size + schedule.auxiliary_batch) * schedule.accumulation
        self._between = steps_between(len(self._sets), samples, schedule.steps)
        if self.rule is None:
            # What is done at a step of the phase changes what trains.
            self.rule = StoppingRule(schedule.steps, self.index, max(self.phase.before, default=0))
            self._look(self.rule)

    @torch.no_grad()
    def _look(self, rule: StoppingRule) -> None:
        """See how far the concept is learned, and keep what is best; what is best stays at the end."""
        assert self._sets is not None
        schedule = self.phase.schedule
        self.put(self.trainable.folded())
        self.tokens.rows = self.trainable.tokens()
        portion = self.micro_batch or schedule.batch_size + schedule.auxiliary_batch
        loss, class_loss = self._sets.losses(self.conditions, portion, self.accelerator)
        if not math.isfinite(loss):
            raise self._failed(loss)
        rule.observe(Look(self.done, loss, class_loss))
        if rule.best is rule.looks[-1]:
            self._best = {name: each.to("cpu", copy=True) for name, each in self.trainable.state_dict().items()}
        elif self.step == self.end and rule.kept is rule.best:
            self.trainable.load_state_dict(self._best)

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
    def length(self) -> int:
        """Steps of the phase; of one that ends by itself the most that there can be, until that is known."""
        return self.length_of(self.index, self.phase.schedule)

    def length_of(self, index: int, schedule: Schedule) -> int:
        """Steps of a phase, by its place among all."""
        return self.rule.length if self.rule and self.rule.phase == index else schedule.steps

    @property
    def end(self) -> int:
        """Where the phase ends."""
        return self.begin + self.length

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
        held = largest * self.phase.passes
        # No part may be empty.
        return max(1, min(smallest, -(-held // (self.micro_batch or held))))

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
            # Gradients of a step that is left out are zeros, and no measurement.
            if not self.scaler or not self.scaler.found_inf.item():
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
        rule = self.rule if self.phase.schedule.stopping == "auto" else None
        if rule and (self.done % self._between == 0 or self.step == self.end):
            self._look(rule)
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
            found = self.trainable.adapter.measures() if self.trainable.adapter else {}
        measures = {name: value.item() for name, value in found.items()}
        if self.rule and self.rule.phase == self.index:
            last = self.rule.looks[-1]
            measures["fixed_loss"] = last.loss
            measures |= {} if last.class_loss is None else {"fixed_class_loss": last.class_loss}
        return Report(self.done, losses, measures, seconds)

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
            raise self._failed(losses.get("loss") if sound else math.nan)
        return losses

    def _failed(self, loss: float | None) -> DeviceFailed:
        return DeviceFailed(
            f"the loss became {loss} around step {self.done}; nothing is committed, and what was saved before stays",
            hint="a smaller --learning-rate; with it the training begins anew",
        )

    def put(self, deltas: Deltas) -> None:
        """Put deltas on, as the network multiplies."""
        self.weights.put(deltas, torch.bfloat16 if casts(self.accelerator) else None)

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
        if self.rule is None:
            return TrainingState(self.step, tensors, self.counted, list(self.curve))
        if self.rule.phase == self.index:
            tensors |= {f"best/{name}": each for name, each in self._best.items()}
        return TrainingState(self.step, tensors, self.counted, list(self.curve), self.rule.state())


def _step_seed(seed: int, step: int) -> int:
    """A seed for each step of each run: neighbouring runs share no step."""
    return (seed * 1_000_003 + step) & (2**63 - 1)
