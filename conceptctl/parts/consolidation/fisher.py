"""Elastic weight consolidation: which entries of a continued adapter earlier tasks need (Kirkpatrick et al. 2017).

The Fisher matrix is its diagonal, over the adapter's factors ("Mining your own secrets", section 3.1), and one for all
tasks: a running average, as in online EWC (Schwarz et al. 2018, "Progress & compress", section 4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from conceptctl.learning import method
from conceptctl.learning.method import Learned, Losses, Method, Phase, Step, Task, Trainable
from conceptctl.parts.adapters.continued import attach_continued, continued, finish_continued


@dataclass(frozen=True)
class Config(method.Config):
    """What methods with a Fisher matrix are set by."""

    ewc_weight: float = 1e6
    """lambda of the penalty on moving entries that earlier tasks need ("Mining your own secrets", appendix H)."""
    fisher_decay: float = 0.5
    """What of the earlier tasks' Fisher matrix is kept when a task's own is added; no paper gives it."""
    consolidation_share: float = 0.2
    """Steps of a consolidation phase, as a share of the training's ("Mining your own secrets", section 4)."""


def ewc_penalty(trainable: Trainable, weight: float) -> Losses:
    """Lambda / 2 sum_i F_i (theta_i - theta*_i)^2 (Kirkpatrick et al. 2017, eq. 3), over the adapter's factors.

    Nothing for a first task, which has no Fisher matrix. theta* is where the task began: the adapter of the one before.
    """
    adapter = continued(trainable)
    if not adapter.has_fisher:
        return {}
    moved = adapter.flat() - adapter.start
    return {"ewc": weight / 2 * (adapter.fisher * moved.square()).sum()}


class FisherMethod(Method):
    """A method with a continued adapter that holds what earlier tasks need; which loss measures that is its own."""

    prompt = "a photo of a {token}"
    configuration = Config
    config: Config

    def ewc_loss(self, step: Step, task: Task) -> Losses:
        """L_ewc, whose gradients the Fisher matrix is made of (eq. 4)."""
        raise NotImplementedError

    def attach(self, task: Task) -> Trainable:
        """Go on with the adapter of the task before."""
        return attach_continued(task, self.config)

    def penalty(self, step: Step, task: Task, trainable: Trainable) -> Losses:
        """The cost of moving what earlier tasks need."""
        return ewc_penalty(trainable, self.config.ewc_weight)

    def phases(self, task: Task, trainable: Trainable) -> Iterator[Phase]:
        """Learn, then measure the task's own Fisher matrix: gradients of a loss, squared, their mean over batches.

        Completes the paper: the empirical Fisher matrix of whole minibatches, on the concept's pictures, all times
        alike.
        """
        yield self.training(task, trainable)
        adapter = continued(trainable)
        steps = max(1, round(self.config.consolidation_share * self.config.steps))
        schedule = self.config.schedule(task.seed).plain(steps)
        yield Phase(
            "measuring importance",
            schedule,
            lambda step: self.ewc_loss(step, task),
            adapter.groups(),
            gradients=adapter.add_squares,
        )

    def finish(self, task: Task, trainable: Trainable) -> Learned:
        """The increment, the adapter, and the running average of the Fisher matrix."""
        adapter = continued(trainable)
        fisher = adapter.squares / adapter.counted.clamp(min=1)
        if adapter.has_fisher:
            fisher = self.config.fisher_decay * adapter.fisher + (1 - self.config.fisher_decay) * fisher
        return finish_continued(task, trainable, fisher)
