"""Sequential LoRA: each concept's adapter on top of the earlier ones, with nothing done against forgetting."""

from __future__ import annotations

import torch

from conceptctl.learning.method import Method, Task, Trainable
from conceptctl.parts.adapters.low_rank import LowRank
from conceptctl.parts.tokens import TokenEmbedding


class Lora(Method):
    """The plain line that every other method is compared with."""

    name = "lora"
    paper = "Smith et al. 2024, C-LoRA, baseline; LoRA: Hu et al. 2022"

    def attach(self, task: Task) -> Trainable:
        """Make adapters and a token row."""
        generator = torch.Generator().manual_seed(task.seed)
        adapter = LowRank(task.shapes, self.config.rank, self.config.learning_rate, generator=generator)
        return Trainable(adapter, TokenEmbedding(task.token_start), self.config.token_learning_rate)
