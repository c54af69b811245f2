"""DualPrompt: prompts that all tasks share, and prompts of each task (Wang et al. 2022, "DualPrompt")."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from conceptctl.learning import method
from conceptctl.learning.method import Task
from conceptctl.parts.adapters.prompts import PromptMethod
from conceptctl.parts.prompt_pools import DualPrompts, Pool


@dataclass(frozen=True)
class Config(method.Config):
    """DualPrompt's settings; the paper's, with the rate of STAMINA's appendix F."""

    learning_rate: float = 5e-3
    """Step size of prompts and keys."""
    general_layers: int = 2
    """Layers, from the first on, with the prompt that all tasks share."""
    general_length: int = 6
    """L_g: its length, half of it keys and half values."""
    expert_layers: int = 3
    """Layers, after those, with the task's own prompt."""
    expert_length: int = 20
    """L_e: its length, half of it keys and half values."""
    key_weight: float = 1.0
    """lambda of the matching loss."""


class DualPrompt(PromptMethod):
    """Prefixes of keys and values, some for every task and some of each; the task is guessed by its key."""

    name = "dual-prompt"
    paper = "Wang et al. 2022, DualPrompt"
    configuration = Config
    config: Config

    def pool(self, task: Task) -> Pool:
        """The prompts, before any task."""
        config = self.config
        first = min(config.general_layers, task.layers)
        return DualPrompts(
            task.width,
            general_layers=range(first),
            general_length=config.general_length,
            expert_layers=range(first, min(first + config.expert_layers, task.layers)),
            expert_length=config.expert_length,
            key_weight=config.key_weight,
            generator=torch.Generator().manual_seed(task.seed),
        )
