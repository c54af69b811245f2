"""STAMINA: masked low-rank adapters and an MLP token (Smith et al. 2024, "Continual diffusion with STAMINA")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from conceptctl.diffusion.fit import Trainable
from conceptctl.diffusion.projections import Stacks
from conceptctl.errors import UsageError
from conceptctl.methods import base
from conceptctl.methods.base import POCKET, Method, Task
from conceptctl.parts.adapters.masked import Masked
from conceptctl.parts.masks import FORMS
from conceptctl.parts.penalties import forgetting, sparsity
from conceptctl.parts.tokens import Mlp


@dataclass(frozen=True)
class Config(base.Config):
    """STAMINA's settings; values from section 5 and appendix D where the paper has them."""

    mask: str = "low-rank"
    """What the mask's logits are made of: low-rank, literal, collapsed or direct."""
    mask_learning_rate: float = 5e-4
    """Step size of the mask."""
    temperature: float = 0.5
    """tau of the Gumbel softmax (eq. 6)."""
    open_by: float = 1.0
    """By how much every entry of the mask starts out open, in logits; not given in the paper."""
    spread: float = 1.0
    """How far the entries of the mask start out from there, in logits: their deviation; not given in the paper."""
    start: float = 0.01
    """Deviation of the first A; at 0, as in LoRA, the mask would have no gradient in the first step."""
    sparsity_weight: float = 1e-3
    """lambda_s of eq. 7."""
    sparsity_warmup: float = 0.1
    """The share of steps over which lambda_s rises; not in the paper."""
    forgetting_weight: float = 1e3
    """lambda_f of eq. 3."""


class Stamina(Method):
    """Stack-and-mask incremental adapters: W_t = W_{t-1} + (A_t B_t) * M_t (eq. 5)."""

    name = "stamina"
    paper = "Smith et al. 2024, STAMINA"
    prompt = "a photo of a {token}"
    configuration = Config
    pocket: ClassVar[Mapping[str, float | int | str]] = {
        **POCKET,
        "learning_rate": 0.06,
        "token_learning_rate": 1e-4,
        "mask_learning_rate": 3e-3,
        "open_by": 5.0,
        "spread": 8.0,
        "sparsity_weight": 1e-4,
        "forgetting_weight": 1e-6,
        "preservation_weight": 0.05,
        "damping": 1.0,
    }
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.mask not in FORMS:
            raise UsageError(f"there is no mask {config.mask!r}", hint="masks: " + ", ".join(FORMS))

    def attach(self, task: Task) -> Trainable:
        """Make adapters, masks and the token's MLP."""
        config = self.config
        generator = torch.Generator().manual_seed(task.seed)
        low_rank = self.low_rank(task, generator, config.start)
        masked = Masked(
            low_rank,
            config.mask,
            config.rank,
            config.mask_learning_rate,
            config.temperature,
            config.open_by,
            config.spread,
            generator=generator,
        )
        return Trainable(masked, Mlp(task.start, generator=generator), config.token_learning_rate)

    def penalty(
        self, trainable: Trainable, deltas: Stacks, task: Task, share: float, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        """Sparsity of the masks (eq. 7), and change of what earlier concepts changed (eqs. 3 and 8)."""
        adapter = trainable.adapter
        assert isinstance(adapter, Masked)
        rise = min(1.0, share / self.config.sparsity_warmup) if self.config.sparsity_warmup else 1.0
        losses = {
            **super().penalty(trainable, deltas, task, share, generator),
            "sparsity": self.config.sparsity_weight * rise * sparsity(adapter.shares),
        }
        if task.earlier:
            losses["forgetting"] = self.config.forgetting_weight * forgetting(deltas, task.earlier)
        return losses
