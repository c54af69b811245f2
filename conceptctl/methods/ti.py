"""Textual Inversion: a word for the concept, and nothing else (Gal et al. 2023)."""

from __future__ import annotations

from conceptctl.learning.method import Method, Task, Trainable
from conceptctl.parts.tokens import TokenEmbedding


class Ti(Method):
    """The token's row alone trains: it can forget nothing, and cannot learn what the base cannot draw."""

    name = "ti"
    paper = "Gal et al. 2023, An image is worth one word, eq. 2"

    def attach(self, task: Task) -> Trainable:
        """Make the token's row."""
        return Trainable(None, TokenEmbedding(task.token_start), self.config.token_learning_rate)
