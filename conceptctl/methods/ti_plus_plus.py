"""TI++: textual inversion whose token comes out of an MLP; the network stays as it is (STAMINA section 5)."""

from __future__ import annotations

import torch

from conceptctl.learning.method import Method, Task, Trainable
from conceptctl.parts.tokens import TokenMlp


class TiPlusPlus(Method):
    """A token alone: it can forget nothing, and cannot learn what the base cannot draw."""

    name = "ti++"
    paper = "Smith et al. 2024, STAMINA, section 5"

    def attach(self, task: Task) -> Trainable:
        """Make the token's MLP."""
        generator = torch.Generator().manual_seed(task.seed)
        return Trainable(None, TokenMlp(task.token_start, generator=generator), self.config.token_learning_rate)
