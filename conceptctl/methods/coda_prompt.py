"""CODA-Prompt: prompts summed up from components by attention (Smith et al. 2023, "CODA-Prompt")."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from conceptctl.learning import method
from conceptctl.learning.method import Task
from conceptctl.parts.adapters.prompts import PromptMethod
from conceptctl.parts.prompt_pools import ComponentPrompts, Pool


@dataclass(frozen=True)
class Config(method.Config):
    """CODA-Prompt's settings; the paper's, with the rate of STAMINA's appendix F."""

    learning_rate: float = 5e-3
    """Step size of components, keys and attention vectors."""
    layers: int = 5
    """Layers, from the first on, that have prompts."""
    prompt_length: int = 8
    """L_p: the length of a prompt, half of it keys and half values."""
    added: int = 5
    """M / N: components that each task adds; 100 in 20 tasks in the paper."""
    orthogonality_weight: float = 0.1
    """lambda of the orthogonality loss."""


class CodaPrompt(PromptMethod):
    """Each task adds components, and those of earlier tasks stay as they are."""

    name = "coda-prompt"
    paper = "Smith et al. 2023, CODA-Prompt"
    configuration = Config
    config: Config

    def pool(self, task: Task) -> Pool:
        """The prompts, before any task."""
        config = self.config
        return ComponentPrompts(
            task.width,
            layers=range(min(config.layers, task.layers)),
            length=config.prompt_length,
            added=config.added,
            orthogonality_weight=config.orthogonality_weight,
            generator=torch.Generator().manual_seed(task.seed),
        )
