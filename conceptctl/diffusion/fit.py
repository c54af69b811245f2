"""The one training loop: it knows no method and no store."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from conceptctl.diffusion.conditioning import Prompts, Slot, learned_row
from conceptctl.diffusion.examples import Examples
from conceptctl.diffusion.models import Pipeline, plain_attention
from conceptctl.diffusion.muon import Muon
from conceptctl.diffusion.objective import Objective
from conceptctl.diffusion.projections import Adapted, Stacks, adapted, cross_attention, freeze
from conceptctl.diffusion.shield import shielded
from conceptctl.errors import DeviceFailed

ParameterGroups = Sequence[Mapping[str, Any]]
"""What an optimizer takes: parameters with their learning rate, and `eps` where it matters; `factors` where they are
stacks of matrices that Muon may train."""

OPTIMIZERS = ("adam", "muon")
"""Adam for everything, or Muon for the factors and Adam for the rest."""

SCHEDULERS = ("constant", "cosine")
"""How learning rates go on: as they are, or falling to nothing along a cosine."""

TIMESTEP_SAMPLINGS = ("uniform", "importance")
"""How a sample's time is drawn: any alike, or those more often where errors are large, which then count less."""


class Adapter(Protocol):
    """What changes the projections: a module whose call gives a step's deltas."""

    def __call__(self, generator: torch.Generator) -> Stacks:
        """The deltas of a training step; what is random in them comes from the generator."""

    def folded(self) -> Stacks:
        """The deltas that are kept: nothing in them is random."""

    def groups(self) -> ParameterGroups:
        """What trains, and how fast."""

    def measures(self) -> Mapping[str, Tensor]:
        """Scalars worth watching."""


class Trainable(nn.Module):
    """All that trains: an adapter, and a token whose call gives its row (1, D)."""

    def __init__(self, adapter: Adapter | None, token: nn.Module, token_learning_rate: float) -> None:
        super().__init__()
        self.adapter = adapter
        self.token = token
        self.token_learning_rate = token_learning_rate

    def groups(self) -> ParameterGroups:
        """What trains, and how fast."""
        token = {"params": list(self.token.parameters()), "lr": self.token_learning_rate}
        return [*(self.adapter.groups() if self.adapter else ()), token]

    def deltas(self, generator: torch.Generator) -> Stacks:
        """The deltas of a training step."""
        return self.adapter(generator) if self.adapter else Stacks()

    def folded(self) -> Stacks:
        """The deltas that are kept."""
        return self.adapter.folded() if self.adapter else Stacks()


@dataclass(frozen=True)
class Schedule:
    """How long and in what portions."""

    steps: int
    batch_size: int
    auxiliary_batch: int = 0
    """Auxiliary pictures in a step, beside the concept's."""
    seed: int = 0
    warmup: int = 0
    """Steps over which learning rates rise."""
    scheduler: str = "constant"
    """One of `SCHEDULERS`."""
    optimizer: str = "adam"
    """One of `OPTIMIZERS`."""
    snr_gamma: float = 0.0
    """The signal-to-noise ratio above which a sample counts less (Hang et al. 2023); 0 for all alike."""
    p2_gamma: float = 0.0
    """How much less samples count that have little noise (Choi et al. 2022); 0 for all alike."""
    timestep_sampling: str = "uniform"
    """One of `TIMESTEP_SAMPLINGS`."""
    accumulation: int = 1
    """Portions in a step, one after the other: their gradients' mean is taken."""

    def share_of_rate(self, step: int) -> float:
        """What of the learning rates a step takes."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        if self.scheduler == "constant":
            return rise
        return rise * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class Report:
    """How a training stands."""

    step: int
    losses: Mapping[str, float]
    """Means since the last report."""
    measures: Mapping[str, float]
    seconds: float
    """Since this run began; an interrupted one counts from where it was taken up."""


STATE_FORMAT = 2
"""What the tensors of a `State` mean: another number whenever a method's parameters come in other shapes."""


@dataclass
class State:
    """All that a training needs to go on: the same steps follow, bit for bit on a CPU."""

    step: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Parameters, the optimizer's state, and what the next report will sum up, by name."""
    counted: int = 0
    """Steps since the last report."""
    curve: list[float] = field(default_factory=list)
    """The loss over the run."""


@dataclass(frozen=True)
class Callbacks:
    """Who is told what, and when."""

    report: Callable[[Report], None] = lambda report: None
    save: Callable[[State], None] = lambda state: None
    """Called every `save_seconds`, and when the training is interrupted."""
    preview: Callable[[int], None] | None = None
    """Called with the step, every `preview_steps`, the folded deltas and the token being in place."""
    report_steps: int = 10
    save_seconds: float = 60.0
    preview_steps: int = 100


Penalty = Callable[[Stacks, float, torch.Generator], Mapping[str, Tensor]]
"""What a method adds to the denoising loss, by name, given a step's deltas, the share of steps done, and where what is
random in it comes from."""

CURVE_POINTS = 50
_SHOWN = 8
"""Samples, spread evenly over the concept's, on which errors are measured where times are drawn by importance."""


def fit(
    pipeline: Pipeline,
    number: int,
    trainable: Trainable,
    examples: Examples,
    schedule: Schedule,
    penalty: Penalty,
    *,
    autocast: bool = False,
    state: State | None = None,
    callbacks: Callbacks | None = None,
) -> State:
    """Train adapter and token on the denoising loss and a method's penalty.

    Every step draws from a generator of its own, seeded with the step, so that a run that was interrupted goes on as
    if nothing had been. Nothing of the pipeline itself changes.

    Args:
        pipeline: The model, with all that was learned before.
        number: The token's number.
        trainable: What trains.
        examples: What on.
        schedule: How long.
        penalty: The method's own loss.
        autocast: Let an fp32 U-Net multiply in bf16; see also `models.plain_attention`.
        state: Where an earlier run stopped.
        callbacks: Who is told.

    Returns:
        The state at the end.

    Raises:
        DeviceFailed: The loss is no number any more; nothing was saved since it was well.
    """
    callbacks = callbacks or Callbacks()
    freeze(pipeline.unet, pipeline.text_encoder, pipeline.vae)
    with _attention(pipeline, autocast):
        run = _Run(pipeline, number, trainable, examples, schedule, penalty, state or State(), autocast)
        with adapted(cross_attention(pipeline.unet)) as run.projected, learned_row(pipeline, number) as run.slot:
            _loop(run, callbacks)
    return run.state()


def _attention(pipeline: Pipeline, autocast: bool) -> AbstractContextManager[None]:
    return plain_attention(pipeline.unet) if autocast else nullcontext()


@torch.no_grad()
def denoising_loss(
    pipeline: Pipeline,
    number: int,
    trainable: Trainable,
    examples: Examples,
    schedule: Schedule,
    *,
    batches: int,
    sampled: bool,
    autocast: bool = False,
) -> float:
    """Measure the denoising loss on batches that no step draws, the same in every call.

    Args:
        pipeline: The model, as `fit` had it.
        number: The token's number.
        trainable: What was trained.
        examples: What on.
        schedule: Of which the portions count.
        batches: How many.
        sampled: With deltas as a training step draws them, or as they are kept.
        autocast: As `fit` had it.
    """
    uniform = replace(schedule, timestep_sampling="uniform")
    run = _Run(pipeline, number, trainable, examples, uniform, lambda deltas, share, generator: {}, State(), autocast)
    total = 0.0
    with (
        _attention(pipeline, autocast),
        adapted(cross_attention(pipeline.unet)) as run.projected,
        learned_row(pipeline, number) as run.slot,
    ):
        for index in range(batches):
            run.step = schedule.steps + index
            total += run.losses(run.generator(), sampled=sampled)["denoising"].item()
    return total / batches


def _loop(run: _Run, callbacks: Callbacks) -> None:
    began = saved = time.monotonic()
    try:
        while run.step < run.schedule.steps:
            loss = run.gradients()
            # What is half done when a signal comes is done or not begun when the state is saved: a step that is never
            # reported would be missing in the curve of the run that goes on.
            with shielded():
                run.update(loss)
                if run.step % callbacks.report_steps == 0 or run.step == run.schedule.steps:
                    callbacks.report(run.report(time.monotonic() - began))
            if callbacks.preview and run.step % callbacks.preview_steps == 0:
                run.show(callbacks.preview)
            if time.monotonic() - saved >= callbacks.save_seconds:
                _save(run, callbacks)
                saved = time.monotonic()
    except KeyboardInterrupt:
        _save(run, callbacks)
        raise


def _save(run: _Run, callbacks: Callbacks) -> None:
    run.check()
    with shielded():
        callbacks.save(run.state())


class _Run:
    """One training under way."""

    projected: Adapted
    slot: Slot

    def __init__(
        self,
        pipeline: Pipeline,
        number: int,
        trainable: Trainable,
        examples: Examples,
        schedule: Schedule,
        penalty: Penalty,
        state: State,
        autocast: bool,
    ) -> None:
        self.trainable, self.examples, self.schedule, self.penalty = trainable, examples, schedule, penalty
        self.objective = Objective(pipeline, schedule.snr_gamma, schedule.p2_gamma, autocast=autocast)
        self.prompts = Prompts(pipeline, examples.prompts, number)
        if schedule.timestep_sampling == "importance":
            # Of the model and the token as the training finds them, so that a run that goes on measures the same.
            shown = torch.linspace(0, examples.concept - 1, min(_SHOWN, examples.concept)).long()
            latents = examples.latents[shown.to(examples.latents.device)]
            self.objective.focus(latents, self.prompts.hidden(shown), schedule.batch_size + schedule.auxiliary_batch)
        groups = trainable.groups()
        self.optimizers = _optimizers(groups, schedule.optimizer)
        self.groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        self.optimizer_of = {
            parameter: optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        self.rates = [group["lr"] for group in self.groups]
        self.parameters = dict(trainable.named_parameters())
        self.sums: dict[str, Tensor] = {}
        self.counted = state.counted
        self.step = state.step
        self.curve = list(state.curve)
        if state.tensors:
            self._restore(state.tensors)

    def generator(self) -> torch.Generator:
        """Where all that is random in a step comes from."""
        return torch.Generator().manual_seed(_step_seed(self.schedule.seed, self.step))

    def gradients(self) -> dict[str, Tensor]:
        """Leave one step's gradients on the parameters, and return its losses."""
        generator, portions = self.generator(), self.schedule.accumulation
        means: dict[str, Tensor] = {}
        for _ in range(portions):
            losses = {name: value / portions for name, value in self.losses(generator).items()}
            losses["loss"].backward()
            means = {name: means.get(name, 0) + value.detach() for name, value in losses.items()}
        return means

    def losses(self, generator: torch.Generator, *, sampled: bool = True) -> dict[str, Tensor]:
        """The losses of one portion, with a graph behind "loss"; not `sampled`, with the deltas as they are kept."""
        chosen = self.examples.choose(self.schedule.batch_size, self.schedule.auxiliary_batch, generator)
        latents = self.examples.latents[chosen.to(self.examples.latents.device, non_blocking=True)]
        noise, timesteps = self.objective.draw(latents, generator)
        deltas = self.trainable.deltas(generator) if sampled else self.trainable.folded()
        self.projected.put(deltas, torch.bfloat16 if self.objective.autocast else None)
        self.slot.row = self.trainable.token()
        hidden = self.prompts.hidden(chosen)
        losses = {"denoising": self.objective.errors(latents, noise, timesteps, hidden).mean()}
        losses |= self.penalty(deltas, self.step / self.schedule.steps, generator)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def update(self, losses: Mapping[str, Tensor]) -> None:
        """Take the step whose gradients are there."""
        share = self.schedule.share_of_rate(self.step)
        for group, rate in zip(self.groups, self.rates, strict=True):
            group["lr"] = rate * share
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        for name, value in losses.items():
            known = self.sums.get(name)
            self.sums[name] = value if known is None else known + value
        self.counted += 1

    def report(self, seconds: float) -> Report:
        """Sum up the steps since the last report."""
        losses = self.check()
        self.sums, self.counted = {}, 0
        every = max(1, self.schedule.steps // CURVE_POINTS)
        if self.step // every > len(self.curve) or self.step == self.schedule.steps:
            self.curve.append(losses["loss"])
        with torch.no_grad():
            measures = self.trainable.adapter.measures() if self.trainable.adapter else {}
        return Report(self.step, losses, {name: value.item() for name, value in measures.items()}, seconds)

    def check(self) -> dict[str, float]:
        """Return the mean losses since the last report.

        Raises:
            DeviceFailed: They are no numbers, or the weights are none.
        """
        losses = {name: value.item() / self.counted for name, value in self.sums.items()}
        # A step can spoil the weights before any loss shows it, and a spoiled state would be resumed for ever.
        sound = torch.stack([parameter.isfinite().all() for parameter in self.parameters.values()]).all().item()
        if not (sound and all(math.isfinite(value) for value in losses.values())):
            raise DeviceFailed(
                f"the loss became {losses.get('loss') if sound else 'nan'} around step {self.step}; "
                "nothing is committed, and what was saved before stays",
                hint="a smaller --learning-rate; with it the lesson begins anew",
            )
        return losses

    @torch.no_grad()
    def show(self, preview: Callable[[int], None]) -> None:
        """Let somebody draw with what is learned so far."""
        self.projected.put(self.trainable.folded())
        self.slot.row = self.trainable.token()
        preview(self.step)

    def state(self) -> State:
        """A copy of everything, on the CPU."""
        tensors: dict[str, Tensor] = {f"parameter/{name}": value for name, value in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer_of[parameter].state.get(parameter, {}).items():
                tensors[f"optimizer/{name}/{key}"] = value
        tensors |= {f"sum/{name}": value for name, value in self.sums.items()}
        kept = {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}
        return State(self.step, kept, self.counted, list(self.curve))

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        device = self.examples.latents.device
        self.sums = {
            name.removeprefix("sum/"): value.to(device) for name, value in tensors.items() if name.startswith("sum/")
        }
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"parameter/{name}"])
                found = {
                    key.rpartition("/")[2]: value
                    for key, value in tensors.items()
                    if key.startswith(f"optimizer/{name}/")
                }
                if found:
                    self.optimizer_of[parameter].state[parameter] = {
                        key: value.to(parameter.device, copy=True) for key, value in found.items()
                    }


def _optimizers(groups: ParameterGroups, name: str) -> list[torch.optim.Optimizer]:
    """Muon for the factors if it is asked for, Adam for everything else."""
    own = [{key: value for key, value in group.items() if key != "factors"} for group in groups]
    factors = [group.get("factors", False) and name == "muon" for group in groups]
    # Whatever their rank: a learning rate for orthogonal steps is too high for others.
    ours = [{**group, "stacks": True} for group, of_muon in zip(own, factors, strict=True) if of_muon]
    rest = [group for group, of_muon in zip(own, factors, strict=True) if not of_muon]
    made: list[torch.optim.Optimizer] = [Muon(ours, 0.0)] if ours else []
    return [*made, torch.optim.Adam(rest, fused=True)] if rest else made


def _step_seed(seed: int, step: int) -> int:
    """A seed for each step of each run: neighbouring runs share no step."""
    return (seed * 1_000_003 + step) & (2**63 - 1)
