"""TI++: textual inversion whose token comes out of an MLP; the U-Net stays as it is (STAMINA section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from conceptctl.diffusion.fit import Trainable
from conceptctl.methods.base import POCKET, Method, Task
from conceptctl.parts.tokens import Mlp


class TiPlusPlus(Method):
    """A token alone: it can forget nothing, and cannot learn what the base cannot draw."""

    name = "ti++"
    paper = "Smith et al. 2024, STAMINA, section 5"
    # An MLP moves its row 75 times as fast as the rate says, at the bundled base's width.
    pocket: ClassVar[Mapping[str, float | int | str]] = {**POCKET, "token_learning_rate": 5e-5}

    def attach(self, task: Task) -> Trainable:
        """Make the token's MLP."""
        generator = torch.Generator().manual_seed(task.seed)
        return Trainable(None, Mlp(task.start, generator=generator), self.config.token_learning_rate)
