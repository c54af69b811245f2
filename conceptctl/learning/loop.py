"""The one training loop, over a method's phases: it knows no method, no model family and no store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, cast

import torch

from conceptctl.errors import is_out_of_memory
from conceptctl.learning.backbone import Network
from conceptctl.learning.checkpoint import TrainingState
from conceptctl.learning.examples import Examples
from conceptctl.learning.method import Losses, Method, Phase, Task, Trainable
from conceptctl.learning.processes import casts
from conceptctl.learning.prompts import Promptable
from conceptctl.learning.run import Report, Run
from conceptctl.learning.schedule import Schedule
from conceptctl.learning.signals import deferred_signals
from conceptctl.learning.step import BatchStep
from conceptctl.learning.weights import Deltas, adapted, token_override

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Listener:
    """Who is told what, and when."""

    phase: Callable[[str, int, int], None] = lambda name, steps, done: None
    """A phase begins: its name, its steps, and how many of them are done already."""
    ending: Callable[[int], None] = lambda steps: None
    """A phase that ends by itself has begun to end: how many steps it has."""
    report: Callable[[Report], None] = lambda report: None
    step: Callable[[int], None] = lambda done: None
    """A step of the phase is done: how many are now."""
    save: Callable[[TrainingState], None] = lambda state: None
    """Called every `save_seconds`, and when the training is interrupted; with several processes, in the main one."""
    preview: Callable[[int], None] | None = None
    """Called with the step, every `preview_steps` and at a phase's end, the folded deltas and the token in place."""
    report_steps: int = 10
    save_seconds: float = 60.0
    preview_steps: int = 100


def train(
    backbone: Network,
    token_ids: Sequence[int],
    method: Method,
    task: Task,
    trainable: Trainable,
    examples: Examples,
    *,
    accelerator: Accelerator,
    micro_batch: int | None = None,
    state: TrainingState | None = None,
    listener: Listener | None = None,
) -> TrainingState:
    """Run a method's phases, one after the other.

    Every step draws from a generator of its own, seeded with the step, so that a run that was interrupted goes on as
    if nothing had been. Nothing of the model itself changes.

    Args:
        backbone: The model, with all that was learned before.
        token_ids: The tokens that are learned.
        method: What is done.
        task: What it is done about.
        trainable: What the method attached, on the device.
        examples: What it is learned from.
        accelerator: The run's device, precision and processes.
        micro_batch: How many samples go through the network together, in every process; None for all of a batch. It
            changes what a step remembers and nothing that is learned, but for rounding.
        state: Where an earlier run stopped.
        listener: Who is told.

    Returns:
        The state at the end.

    Raises:
        DeviceFailed: The loss is no number any more; nothing was saved since it was well.
    """
    listener = listener or Listener()
    with _prepared(backbone, token_ids, trainable, examples, accelerator, micro_batch) as run:
        run.take_up(state or TrainingState())
        end = 0
        for index, phase in enumerate(_phases(run, method, task, trainable)):
            begin, end = end, end + run.length_of(index, phase.schedule)
            if run.step < end:
                run.enter(phase, begin, index)
                listener.phase(phase.name, run.length, run.done)
                _loop(run, listener)
                end = run.end
        return run.state()


def _phases(run: Run, method: Method, task: Task, trainable: Trainable) -> Iterator[Phase]:
    """A method's phases; what a state holds is put back as soon as the steps before it are asked for no more."""
    end = 0
    phases = method.phases(task, trainable)
    for index in count():
        if run.step == end:
            # A phase is made from what the one before it left.
            run.restore_weights()
        phase = next(phases, None)
        if phase is None:
            return
        phase = replace(phase, schedule=_in_proportion(run, index, phase.schedule))
        yield phase
        # Of one that ends by itself that is known now.
        end += run.length_of(index, phase.schedule)


def _in_proportion(run: Run, index: int, schedule: Schedule) -> Schedule:
    """Make a phase after one that ended by itself shorter by as much as that one: it is a share of the training."""
    rule = run.rule
    if rule is None or index <= rule.phase:
        return schedule
    return replace(schedule, steps=max(1, round(schedule.steps * rule.length / rule.most)))


@torch.no_grad()
def denoising_loss(
    backbone: Network,
    token_ids: Sequence[int],
    trainable: Trainable,
    examples: Examples,
    schedule: Schedule,
    *,
    accelerator: Accelerator,
    micro_batch: int | None = None,
    batches: int,
    deltas: Deltas | None = None,
) -> float:
    """Measure the denoising loss on batches that no step draws, the same in every call.

    Args:
        backbone: The model, as `train` had it.
        token_ids: The tokens.
        trainable: What was trained.
        examples: What on.
        schedule: Of which the portions count.
        accelerator: As `train` had it.
        micro_batch: As `train` had it.
        batches: How many.
        deltas: With which deltas: what is kept; by default as a training step draws them.
    """
    uniform = replace(schedule, timestep_sampling="uniform", stopping="fixed")
    total = torch.zeros((), device=accelerator.device)
    with _prepared(backbone, token_ids, trainable, examples, accelerator, micro_batch) as run:
        run.enter(Phase("measuring", uniform, lambda step: {}, ()), 0, 0)
        for index in range(batches):
            run.step = uniform.steps + index
            generator = run.generator()
            step = BatchStep(run, generator)
            parts = run.micro_batches(step.count)
            for part in step.parts(parts):
                if deltas is not None:
                    part.deltas = deltas
                total += part.mean(part.loss()) / parts
    found: float = accelerator.reduce(total, "mean").item() / batches
    return found


@contextmanager
def _prepared(
    backbone: Network,
    token_ids: Sequence[int],
    trainable: Trainable,
    examples: Examples,
    accelerator: Accelerator,
    micro_batch: int | None,
) -> Iterator[Run]:
    backbone.freeze()
    backbone.set_aside()
    with (
        backbone.training_attention(casts(accelerator)),
        adapted(backbone.targets()) as weights,
        token_override(backbone.token_tables(), token_ids, backbone.token_numbers(token_ids)) as tokens,
        cast("Promptable", backbone).prompted(trainable.prompts) if trainable.prompts else nullcontext(),
    ):
        yield Run(backbone, weights, tokens, trainable, examples, accelerator, micro_batch)


def _loop(run: Run, listener: Listener) -> None:
    began = saved = time.monotonic()
    together = run.accelerator.num_processes > 1
    try:
        # One process is interrupted at once; several stop after the same step.
        with _interruptible(together) as waiting:
            while run.step < run.end:
                run.phase.prepare(run.done)
                losses = run.gradients()
                save = time.monotonic() - saved >= listener.save_seconds
                stop = False
                if together:
                    save, stop = run.agree([save and run.accelerator.is_main_process, bool(waiting)])
                _take_step(run, losses, listener, began)
                if listener.preview and _is_shown(run, listener):
                    run.show(listener.preview)
                if save:
                    _save(run, listener)
                    saved = time.monotonic()
                if stop:
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        _save(run, listener)
        raise
    except RuntimeError as error:
        if not (is_out_of_memory(error) and run.is_between_steps and run.accelerator.num_processes == 1):
            raise
        # Nothing of the step is done, and the same steps can follow in smaller parts.
        run.drop_gradients()
        _save(run, listener)
        raise


def _take_step(run: Run, losses: Losses, listener: Listener, began: float) -> None:
    """Take the step whose gradients are there, and tell of it."""
    length = run.length
    # What is half done when a signal comes is done or not begun when the state is saved: a step that is never reported
    # would be missing in the curve of the run that goes on.
    with deferred_signals():
        run.update(losses)
        if run.done % listener.report_steps == 0 or run.step == run.end:
            listener.report(run.report(time.monotonic() - began))
    if run.length != length:
        listener.ending(run.length)
    listener.step(run.done)


def _is_shown(run: Run, listener: Listener) -> bool:
    """Whether it is time to draw; where no weight moves there is nothing new to see."""
    due = run.done % listener.preview_steps == 0 or run.step == run.end
    return due and run.phase.gradients is None


def _interruptible(together: bool) -> AbstractContextManager[list[int]]:
    return deferred_signals() if together else nullcontext([])


def _save(run: Run, listener: Listener) -> None:
    run.check()
    if run.accelerator.is_main_process:
        with deferred_signals():
            listener.save(run.state())
