"""A linear probe: the head alone, on features that nothing changes. Whatever changes them has to do better."""

from __future__ import annotations

from conceptctl.learning.method import Method, Task, Trainable
from conceptctl.parts.tokens import TokenEmbedding


class LinearProbe(Method):
    """The task's rows of the head train, and nothing else: what is lost goes to classes that came later."""

    name = "linear-probe"
    paper = "a control of ours; Alain and Bengio 2017, Understanding intermediate layers using linear classifier probes"

    def attach(self, task: Task) -> Trainable:
        """Make the task's rows of the head."""
        return Trainable(None, TokenEmbedding(task.token_start), self.config.token_learning_rate)
