"""LoRA one after the other, each begun orthogonal to the earlier ones (Staniszewski et al. 2024, arXiv 2410.04891)."""

from __future__ import annotations

import torch

from conceptctl.learning.method import Method, Task, Trainable
from conceptctl.parts.adapters.low_rank import LowRank
from conceptctl.parts.adapters.orthogonal import orthogonal_rows
from conceptctl.parts.tokens import TokenEmbedding


class LoraOrthogonal(Method):
    """Sequential LoRA that starts in directions which earlier adapters did not use; then it goes where it will."""

    name = "lora-orthogonal"
    paper = "Staniszewski et al. 2024, Low-rank continual personalization (arXiv 2410.04891), orthogonal initialization"

    def attach(self, task: Task) -> Trainable:
        """Make adapters, whose B begins orthogonal to the change so far, and a token row."""
        generator = torch.Generator().manual_seed(task.seed)
        adapter = LowRank(task.shapes, self.config.rank, self.config.learning_rate, generator=generator)
        back = task.to_base()
        with torch.no_grad():
            for paths, down in zip(adapter.shapes, adapter.down, strict=True):
                if back:
                    down.copy_(orthogonal_rows(back.stacks[paths], down.shape[1], generator))
        return Trainable(adapter, TokenEmbedding(task.token_start), self.config.token_learning_rate)
