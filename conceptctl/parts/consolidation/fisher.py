"""Elastic weight consolidation: which entries of an adapter earlier tasks need (Kirkpatrick et al. 2017).

The Fisher matrix is its diagonal, over what trains ("Mining your own secrets", section 3.1), and one for all tasks: a
running average, as in online EWC (Schwarz et al. 2018, "Progress & compress", section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from conceptctl.learning.method import Learned, Losses, Method, Phase, Step, Task, Trainable
from conceptctl.learning.schedule import Later
from conceptctl.parts.adapters.continued import ContinuedMethod, finish_continued
from conceptctl.parts.adapters.measured import Measured
from conceptctl.parts.consolidation import phase_length

MEASURING = "measuring importance"
"""What the phase is called."""


@dataclass(frozen=True)
class Config(phase_length.Config):
    """What methods with a Fisher matrix are set by."""

    ewc_weight: float = 1e6
    """lambda of the penalty on moving entries that earlier tasks need ("Mining your own secrets", appendix H)."""
    fisher_decay: float = 0.5
    """How much the earlier tasks' Fisher matrix counts in the average with a task's own; no paper gives it."""

    @property
    def measured_passes(self) -> int:
        """Predictions of each sample in the loss whose gradients are measured."""
        return 1

    def later(self) -> tuple[Later, ...]:
        """What follows, and the Fisher matrix after it."""
        return (*super().later(), Later(MEASURING, self.consolidation_steps, self.measured_passes))


def measured(trainable: Trainable) -> Measured:
    """The adapter of a method with a Fisher matrix."""
    assert isinstance(trainable.adapter, Measured)
    return trainable.adapter


def ewc_penalty(trainable: Trainable, weight: float) -> Losses:
    """Lambda / 2 sum_i F_i (theta_i - theta*_i)^2 (Kirkpatrick et al. 2017, eq. 3), over the adapter's factors.

    Nothing for a first task, which has no Fisher matrix. theta* is where the task began: the adapter of the one before.
    """
    adapter = measured(trainable)
    if not adapter.has_fisher:
        return {}
    moved = adapter.flat() - adapter.start
    return {"ewc": weight / 2 * (adapter.fisher * moved.square()).sum()}


class FisherMethod(Method):
    """A method whose adapter holds what earlier tasks need; which adapter, and which loss measures that, is its own."""

    configuration = Config
    config: Config

    def ewc_loss(self, step: Step, task: Task) -> Losses:
        """L_ewc, whose gradients the Fisher matrix is made of (eq. 4): the denoising loss."""
        return {"denoising": step.mean(step.loss())}

    def penalty(self, step: Step, task: Task, trainable: Trainable) -> Losses:
        """The cost of moving what earlier tasks need."""
        return ewc_penalty(trainable, self.config.ewc_weight)

    def phases(self, task: Task, trainable: Trainable) -> Iterator[Phase]:
        """Learn; consolidate; then measure the task's own Fisher matrix ("Mining your own secrets", algorithm 4)."""
        yield self.training(task, trainable)
        yield from self.consolidation(task, trainable)
        yield self.measuring(
            trainable,
            self.config.consolidation_steps,
            task.seed,
            lambda step: self.ewc_loss(step, task),
            measured(trainable).add_squares,
        )

    def consolidation(self, task: Task, trainable: Trainable) -> Iterator[Phase]:
        """What is done between learning and measuring: nothing."""
        yield from ()

    def measuring(
        self, trainable: Trainable, steps: int, seed: int, loss: Callable[[Step], Losses], keep: Callable[[], None]
    ) -> Phase:
        """Gradients of a loss, batch by batch, of which the mean of the squares is the Fisher matrix (eq. 4).

        Completes the paper: on the concept's pictures, all times alike. The square is of a batch's mean gradient, which
        is that of one picture only with `batch_size=1`, as the paper has it; portions of a step are not averaged first.

        Args:
            trainable: Whose adapter is measured.
            steps: Batches.
            seed: Of what they are made of.
            loss: Of a batch.
            keep: Called with each batch's gradients in place.
        """
        schedule = replace(self.config.schedule(seed).plain(steps), accumulation=1)
        groups = trainable.adapter_groups()
        return Phase(MEASURING, schedule, loss, groups, gradients=keep, passes=self.config.measured_passes)

    def fisher(self, trainable: Trainable) -> Tensor:
        """The running average of the Fisher matrix, this task's in it."""
        adapter, decay = measured(trainable), self.config.fisher_decay
        own = adapter.squares / adapter.counted.clamp(min=1)
        return decay * adapter.fisher + (1 - decay) * own if adapter.has_fisher else own


class ContinuedFisherMethod(FisherMethod, ContinuedMethod):
    """The same over one adapter that goes on from task to task."""

    configuration = Config
    config: Config

    def finish(self, task: Task, trainable: Trainable) -> Learned:
        """The increment, the adapter, and the Fisher matrix of all tasks."""
        return finish_continued(task, trainable, self.fisher(trainable))
