"""Prompts in an adapter's place: the transformer stays as it is, and what is learned stands beside its input."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from conceptctl.learning.method import Learned, Losses, Method, ParameterGroups, Step, Task, Trainable
from conceptctl.learning.prompts import Prompts
from conceptctl.learning.weights import Deltas
from conceptctl.parts.prompt_pools import Pool
from conceptctl.parts.tokens import TokenEmbedding

_KIND = "pool/"


class Prompting(nn.Module):
    """A pool that one task adds to, and trains."""

    def __init__(self, pool: Pool, task: int, learning_rate: float) -> None:
        """Take a pool that has grown to the task.

        Args:
            pool: The pool.
            task: Counted from 0.
            learning_rate: Of all in it that is not frozen.
        """
        super().__init__()
        self.pool, self.task, self.learning_rate = pool, task, learning_rate
        self.losses: Mapping[str, Tensor] = {}
        """What the last batch adds to the loss."""

    def forward(self, query: Tensor) -> Prompts:
        """The prompts of a batch of the task."""
        prompts: Prompts = self.pool(query, self.task, training=True)
        self.losses = prompts.losses
        return prompts

    def of_any_task(self, query: Tensor) -> Prompts:
        """The prompts of pictures of which nobody says what task they are of."""
        prompts: Prompts = self.pool(query, training=False)
        return prompts

    def groups(self) -> ParameterGroups:
        """All that is not frozen, at one rate."""
        trained = [each for each in self.pool.parameters() if each.requires_grad]
        return [{"params": trained, "lr": self.learning_rate}]


class PromptMethod(Method):
    """A method that learns a pool of prompts, and the head's rows; it says what the pool is."""

    def pool(self, task: Task) -> Pool:
        """A new pool, of no task yet."""
        raise NotImplementedError

    def attach(self, task: Task) -> Trainable:
        """Let a pool grow by a task, with what earlier ones left in it, beside the task's rows of the head."""
        pool, number, config = self._kept(task), len(task.earlier), self.config
        pool.grow(number)
        prompting = Prompting(pool, number, config.learning_rate)
        return Trainable(None, TokenEmbedding(task.token_start), config.token_learning_rate, prompting)

    def prompts(self, task: Task) -> Prompting | None:
        """The prompts that earlier tasks left."""
        number = len(task.earlier)
        return Prompting(self._kept(task), number - 1, self.config.learning_rate) if number else None

    def _kept(self, task: Task) -> Pool:
        """The pool as earlier tasks left it."""
        pool, number = self.pool(task), len(task.earlier)
        if number:
            pool.grow(number - 1)
            kept = task.earlier[-1].state()
            pool.load_state_dict({name.removeprefix(_KIND): each for name, each in kept.items()})
        return pool

    def penalty(self, step: Step, task: Task, trainable: Trainable) -> Losses:
        """What the prompts of a step add to the loss that was taken before, by name."""
        losses = _prompting(trainable).losses
        return {name: step.mean(each) if each.ndim else each for name, each in losses.items()}

    def finish(self, task: Task, trainable: Trainable) -> Learned:
        """No delta: the head's rows, and the whole pool as a state."""
        pool = _prompting(trainable).pool.state_dict()
        kept = {_KIND + name: each.detach().clone() for name, each in pool.items()}
        return Learned(Deltas(), trainable.tokens(), kept)


def _prompting(trainable: Trainable) -> Prompting:
    assert isinstance(trainable.prompts, Prompting)
    return trainable.prompts
