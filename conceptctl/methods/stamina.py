"""STAMINA: masked low-rank adapters and an MLP token (Smith et al. 2024, "Continual diffusion with STAMINA")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from conceptctl.errors import UsageError
from conceptctl.learning.method import Adapter, Losses, Method, Step, Task, Trainable
from conceptctl.parts import preservation
from conceptctl.parts.adapters.masked import Masked
from conceptctl.parts.adapters.masked_deltas import MaskedDeltas
from conceptctl.parts.adapters.soft_masked import SoftMasked
from conceptctl.parts.masks import FORMS
from conceptctl.parts.penalties import (
    Forgetting,
    Penalty,
    Preservation,
    forgetting,
    hutchinson_sketch,
    sparsity,
)
from conceptctl.parts.preservation import make_low_rank, preservation_loss
from conceptctl.parts.tokens import TokenEmbedding, TokenMlp

NO_MASK = "none"
MASKINGS = {"gumbel": Masked, "sigmoid": SoftMasked}
FORGETTING, PRESERVATION = "forgetting", "preservation"
EMBEDDINGS = ("mlp", "row")
"""What trains for the token: with `NO_MASK`, `sigmoid` and a weight of 0, the paper's ablations (table 2b)."""


@dataclass(frozen=True)
class Config(preservation.Config):
    """STAMINA's settings; values from section 5 and appendix D where the paper has them."""

    mask: str = "low-rank"
    """What the mask's logits are made of: low-rank, literal, collapsed or direct; none for no mask."""
    masking: str = "gumbel"
    """What becomes of the logits: a hard mask (gumbel), or the paper's ablation of it (sigmoid)."""
    embedding: str = "mlp"
    """What the token's row comes out of: an MLP, or itself alone (row)."""
    mask_learning_rate: float = 5e-4
    """Step size of the mask."""
    temperature: float = 0.5
    """tau of the Gumbel softmax (eq. 6)."""
    mask_logit_mean: float = 1.0
    """By how much every entry of the mask starts out open, in logits; not given in the paper."""
    mask_logit_std: float = 1.0
    """How far the entries of the mask start out from there, in logits: their deviation; not given in the paper."""
    init_std: float = 0.01
    """Deviation of the first A; at 0, as in LoRA, the mask would have no gradient in the first step."""
    sparsity_weight: float = 1e-3
    """lambda_s of eq. 7."""
    sparsity_warmup: float = 0.1
    """The share of steps over which lambda_s rises; not in the paper."""
    forgetting_weight: float = 1e3
    """lambda_f of eq. 3."""

    @property
    def needs_change(self) -> bool:
        """What earlier concepts changed costs when it is changed again."""
        return True


class Stamina(Method):
    """Stack-and-mask incremental adapters: W_t = W_{t-1} + (A_t B_t) * M_t (eq. 5)."""

    name = "stamina"
    paper = "Smith et al. 2024, STAMINA"
    prompt = "a photo of a {token}"
    configuration = Config
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        for what, chosen, words in (
            ("mask", config.mask, (*FORMS, NO_MASK)),
            ("masking", config.masking, MASKINGS),
            ("embedding", config.embedding, EMBEDDINGS),
        ):
            if chosen not in words:
                raise UsageError(f"there is no {what} {chosen!r}", hint=f"{what}: " + ", ".join(words))

    def attach(self, task: Task) -> Trainable:
        """Make adapters, masks and the token's MLP."""
        config = self.config
        generator = torch.Generator().manual_seed(task.seed)
        # Without a mask that needs a gradient it begins as LoRA does.
        low_rank = make_low_rank(task, config, generator, 0.0 if config.mask == NO_MASK else config.init_std)
        adapter: Adapter = low_rank
        if config.mask != NO_MASK:
            adapter = MASKINGS[config.masking](
                low_rank,
                config.mask,
                config.rank,
                config.mask_learning_rate,
                config.temperature,
                config.mask_logit_mean,
                config.mask_logit_std,
                generator=generator,
                penalties=self._penalties(task),
            )
        by_itself = config.embedding == "row"
        token = TokenEmbedding(task.token_start) if by_itself else TokenMlp(task.token_start, generator=generator)
        return Trainable(adapter, token, config.token_learning_rate)

    def penalty(self, step: Step, task: Task, trainable: Trainable) -> Losses:
        """Sparsity of the masks (eq. 7), and change of what earlier concepts changed (eqs. 3 and 8)."""
        # The masks are drawn with the deltas.
        deltas, adapter, config = step.deltas, trainable.adapter, self.config
        rise = min(1.0, step.progress / config.sparsity_warmup) if config.sparsity_warmup else 1.0
        sparsity_weight = config.sparsity_weight * rise
        losses = {}
        if isinstance(deltas, MaskedDeltas):
            # Measured while each delta was there.
            if PRESERVATION in deltas.penalties:
                losses[PRESERVATION] = config.preservation_weight * deltas.penalty(PRESERVATION).mean()
            losses["sparsity"] = sparsity_weight * sparsity(deltas.densities())
            if FORGETTING in deltas.penalties:
                losses[FORGETTING] = config.forgetting_weight * deltas.penalty(FORGETTING).sum()
            return losses
        losses |= preservation_loss(step, task, config)
        if isinstance(adapter, SoftMasked):
            losses["sparsity"] = sparsity_weight * sparsity(adapter.densities)
        if task.change:
            losses[FORGETTING] = config.forgetting_weight * forgetting(deltas, task.change)
        return losses

    def _penalties(self, task: Task) -> dict[str, Callable[[torch.Generator], Penalty]]:
        """What is measured of each delta while it is there, by name."""
        found: dict[str, Callable[[torch.Generator], Penalty]] = {}
        factor = task.reference_factor
        if factor is not None and self.config.preservation_weight:
            energy = task.output_energy
            found[PRESERVATION] = lambda generator: Preservation(hutchinson_sketch(factor, generator), energy)
        if task.change:
            found[FORGETTING] = lambda generator: Forgetting(task.change)
        return found
