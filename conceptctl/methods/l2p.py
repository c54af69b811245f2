"""L2P: a pool of prompts, of which each picture chooses some (Wang et al. 2022, "Learning to prompt")."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from conceptctl.errors import UsageError
from conceptctl.learning import method
from conceptctl.learning.method import Task
from conceptctl.parts.adapters.prompts import PromptMethod
from conceptctl.parts.prompt_pools import Pool, PromptPool


@dataclass(frozen=True)
class Config(method.Config):
    """L2P's settings; the paper's, with the rate of STAMINA's appendix F."""

    learning_rate: float = 5e-3
    """Step size of prompts and keys."""
    pool_size: int = 30
    """M: prompts in the pool."""
    prompt_length: int = 20
    """L_p: tokens of a prompt."""
    chosen: int = 5
    """N: prompts that a picture gets."""
    key_weight: float = 0.5
    """lambda, of how far chosen keys are from the pictures' features."""


class L2p(PromptMethod):
    """The pictures' features choose prompts that stand before the input; the transformer stays as it is."""

    name = "l2p"
    paper = "Wang et al. 2022, Learning to prompt for continual learning"
    configuration = Config
    config: Config

    def __init__(self, config: Config) -> None:
        """Check that there are as many prompts as are to be chosen.

        Raises:
            UsageError: There are fewer.
        """
        super().__init__(config)
        if config.chosen > config.pool_size:
            raise UsageError(
                f"chosen is {config.chosen}, of {config.pool_size} prompts",
                hint=f"--set chosen={config.pool_size}, or a larger pool_size",
            )

    def pool(self, task: Task) -> Pool:
        """The prompts, before any task."""
        config = self.config
        generator = torch.Generator().manual_seed(task.seed)
        return PromptPool(
            task.width,
            size=config.pool_size,
            length=config.prompt_length,
            chosen=config.chosen,
            key_weight=config.key_weight,
            generator=generator,
        )
