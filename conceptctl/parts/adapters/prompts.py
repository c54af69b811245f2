"""Prompts in an adapter's place: the transformer stays as it is, and what is learned stands beside its input."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from conceptctl.learning.method import Learned, Losses, ParameterGroups, State, Step, Task, Trainable
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


def attach_pool(task: Task, pool: Pool, learning_rate: float) -> Trainable:
    """Let a pool grow by a task, with what earlier ones left in it, beside the task's rows of the head."""
    number = len(task.earlier)
    if number:
        pool.grow(number - 1)
        kept = task.earlier[-1].state()
        pool.load_state_dict({name.removeprefix(_KIND): each for name, each in kept.items()})
    pool.grow(number)
    return Trainable(None, TokenEmbedding(task.token_start), learning_rate, Prompting(pool, number, learning_rate))


def prompt_losses(step: Step, trainable: Trainable) -> Losses:
    """What the prompts of a step add to the loss that was taken before, by name."""
    prompting = trainable.prompts
    assert isinstance(prompting, Prompting)
    return {name: step.mean(each) if each.ndim else each for name, each in prompting.losses.items()}


def learned_pool(trainable: Trainable) -> Learned:
    """No delta: the head's rows, and the whole pool as a state."""
    return Learned(Deltas(), trainable.tokens(), pool_state(trainable))


def pool_state(trainable: Trainable) -> State:
    """The whole pool, as a state."""
    prompting = trainable.prompts
    assert isinstance(prompting, Prompting)
    return {_KIND + name: each.detach().clone() for name, each in prompting.pool.state_dict().items()}
