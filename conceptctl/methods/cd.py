"""Custom Diffusion, one concept after the other: whole keys and values train (Kumari et al. 2023)."""

from __future__ import annotations

from conceptctl.learning.method import Method, Task, Trainable
from conceptctl.parts.adapters.full import Config, Full
from conceptctl.parts.tokens import TokenEmbedding


class Cd(Method):
    """Every weight of the targets trains, on top of all that was learned; nothing is done against forgetting."""

    name = "cd"
    paper = "Kumari et al. 2023, Custom Diffusion, sections 3.1 and 3.2"
    configuration = Config
    config: Config

    def attach(self, task: Task) -> Trainable:
        """Make a change of every target, and a token row."""
        adapter = Full(task.shapes, self.config.learning_rate)
        return Trainable(adapter, TokenEmbedding(task.token_start), self.config.token_learning_rate)
