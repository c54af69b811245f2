"""Sequential LoRA: each concept's adapter on top of the earlier ones, with nothing done against forgetting."""

from __future__ import annotations

from conceptctl.learning.method import Method, Task, Trainable
from conceptctl.parts.adapters.low_rank import attach_low_rank


class Lora(Method):
    """The plain line that every other method is compared with."""

    name = "lora"
    paper = "Smith et al. 2024, C-LoRA, baseline; LoRA: Hu et al. 2022"

    def attach(self, task: Task) -> Trainable:
        """Make adapters and a token row."""
        return attach_low_rank(task, self.config)
