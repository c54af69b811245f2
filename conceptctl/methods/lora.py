"""Sequential LoRA: each concept's adapter on top of the earlier ones, with nothing done against forgetting."""

from __future__ import annotations

import torch

from conceptctl.learning.method import Losses, Method, Step, Task, Trainable
from conceptctl.parts.preservation import Config, make_low_rank, preservation_loss
from conceptctl.parts.tokens import TokenEmbedding


class Lora(Method):
    """The plain line that every other method is compared with."""

    name = "lora"
    paper = "Smith et al. 2024, C-LoRA, baseline; LoRA: Hu et al. 2022"
    configuration = Config
    config: Config

    def attach(self, task: Task) -> Trainable:
        """Make adapters and a token row."""
        generator = torch.Generator().manual_seed(task.seed)
        adapter = make_low_rank(task, self.config, generator)
        return Trainable(adapter, TokenEmbedding(task.token_start), self.config.token_learning_rate)

    def penalty(self, step: Step, task: Task, trainable: Trainable) -> Losses:
        """Nothing, but for what of ours is turned on."""
        return preservation_loss(step, task, self.config)
