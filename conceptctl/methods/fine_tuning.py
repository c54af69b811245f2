"""Fine-tuning, one task after the other: whole targets train, and nothing is done against forgetting; a lower bound."""

from __future__ import annotations

from dataclasses import dataclass

from conceptctl.learning.method import Method, Task, Trainable
from conceptctl.parts.adapters import full
from conceptctl.parts.adapters.full import Full
from conceptctl.parts.tokens import TokenEmbedding


@dataclass(frozen=True)
class Config(full.Config):
    """Its settings."""

    learning_rate: float = 1e-4
    """Step size of the weights."""
    token_learning_rate: float = 5e-4
    """Step size of the head."""


class FineTuning(Method):
    """Every weight of the targets trains, on top of all that was learned."""

    name = "fine-tuning"
    paper = "Smith et al. 2023, CODA-Prompt, section 5: the bound FT++, here of the targets alone"
    configuration = Config
    config: Config

    def attach(self, task: Task) -> Trainable:
        """Make a change of every target, and the task's rows of the head."""
        adapter = Full(task.shapes, self.config.learning_rate)
        return Trainable(adapter, TokenEmbedding(task.token_start), self.config.token_learning_rate)
