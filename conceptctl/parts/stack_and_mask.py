"""Stack-and-mask incremental adapters: W_t = W_{t-1} + (A_t B_t) * M_t (STAMINA, eq. 5), and how they train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from conceptctl.errors import UsageError
from conceptctl.learning import method
from conceptctl.learning.method import Adapter, Losses, Method, Phase, Step, Task, Trainable
from conceptctl.parts.adapters.low_rank import LowRank
from conceptctl.parts.adapters.masked import Masked
from conceptctl.parts.adapters.masked_deltas import MaskedDeltas
from conceptctl.parts.adapters.soft_masked import SoftMasked
from conceptctl.parts.masks import FORMS, PER_ENTRY
from conceptctl.parts.penalties import Forgetting, Penalty, forgetting, sparsity
from conceptctl.parts.tokens import TokenEmbedding, TokenMlp

NO_MASK = "none"
MASKINGS = {"gumbel": Masked, "sigmoid": SoftMasked}
FORGETTING = "forgetting"
EMBEDDINGS = ("mlp", "row")
"""What trains for the token: with `NO_MASK`, `sigmoid` and a weight of 0, the paper's ablations (table 2b)."""


@dataclass(frozen=True)
class Config(method.Config):
    """STAMINA's settings; values from section 5 and appendix D where the paper has them."""

    mask: str = "collapsed"
    """What the mask's logits are made of: collapsed, literal, low-rank or direct; none for no mask."""
    masking: str = "gumbel"
    """What becomes of the logits: a hard mask (gumbel), or the paper's ablation of it (sigmoid)."""
    embedding: str = "mlp"
    """What the token's row comes out of: an MLP, or itself alone (row)."""
    mask_learning_rate: float = 5e-4
    """Step size of the mask."""
    temperature: float = 0.5
    """tau of the Gumbel softmax (eq. 6)."""
    mask_start: float = 0.3
    """The share of steps, less than 1, that masks are open for; then they begin by how large A B is. At 0, and
    `low-rank` always, they begin by chance."""
    mask_logit_mean: float = 1.0
    """By how much the entries of a mask that begins by chance are open, in logits; not given in the paper."""
    mask_logit_std: float = 1.0
    """How far its entries begin from there, in logits: their deviation; not given in the paper."""
    init_std: float = 0.01
    """Deviation of the first A where masks begin by chance; at 0, as in LoRA, they would have no gradient at first."""
    sparsity_weight: float = 0.032
    """lambda_s of eq. 7, of the share of entries that pass: the paper's 1e-3 for each of 32 matrices."""
    sparsity_warmup: float = 0.1
    """The share of steps over which lambda_s rises, of which masks that wait see the end; not in the paper."""
    forgetting_weight: float = 1e3
    """lambda_f of eq. 3."""

    @property
    def needs_change(self) -> bool:
        """What earlier concepts changed costs when it is changed again."""
        return bool(self.forgetting_weight)

    @property
    def waits(self) -> bool:
        """Whether masks are open until it is known what is large."""
        return bool(self.mask_start) and self.mask in PER_ENTRY


class StackAndMask(Method):
    """A masked low-rank adapter and an MLP token, on top of what earlier concepts added."""

    prompt = "a photo of a {token}"
    configuration: ClassVar[type[method.Config]] = Config
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
        # A B begins at 0, as in LoRA, but where masks train from the first step on: their gradient is that of A B.
        by_chance = config.mask != NO_MASK and not config.waits
        low_rank = LowRank(
            task.shapes,
            config.rank,
            config.learning_rate,
            generator=generator,
            init_std=config.init_std if by_chance else 0.0,
        )
        adapter: Adapter = low_rank
        if config.mask != NO_MASK:
            adapter = masked = MASKINGS[config.masking](
                low_rank,
                config.mask,
                config.rank,
                config.mask_learning_rate,
                config.temperature,
                config.mask_logit_mean,
                config.mask_logit_std,
                generator=generator,
                penalties=self.measured(task),
            )
            if config.waits:
                masked.wait()
        by_itself = config.embedding == "row"
        token = TokenEmbedding(task.token_start) if by_itself else TokenMlp(task.token_start, generator=generator)
        return Trainable(adapter, token, config.token_learning_rate)

    def measured(self, task: Task) -> dict[str, Callable[[torch.Generator], Penalty]]:
        """What is measured of each delta while it is there, by name."""
        return {FORGETTING: lambda generator: Forgetting(task.change)} if task.change else {}

    def training(self, task: Task, trainable: Trainable) -> Phase:
        """The training; masks that wait begin at a share of its steps."""
        phase, adapter = super().training(task, trainable), trainable.adapter
        if not (self.config.waits and isinstance(adapter, Masked)):
            return phase
        # Before the first step nothing is large, and masks that begin after the last one are none.
        last = max(1, self.config.steps - 1)
        first = min(max(1, round(self.config.mask_start * self.config.steps)), last)
        return replace(phase, before={first: adapter.start})

    def penalty(self, step: Step, task: Task, trainable: Trainable) -> Losses:
        """Sparsity of the masks (eq. 7), and change of what earlier concepts changed (eqs. 3 and 8)."""
        # The masks are drawn with the deltas.
        deltas, adapter, config = step.deltas, trainable.adapter, self.config
        rise = min(1.0, step.progress / config.sparsity_warmup) if config.sparsity_warmup else 1.0
        losses: dict[str, Tensor] = {}
        if isinstance(adapter, Masked):
            densities = deltas.densities() if isinstance(deltas, MaskedDeltas) else adapter.densities()
            losses["sparsity"] = config.sparsity_weight * rise * sparsity(densities, adapter.sizes())
        if task.change:
            again = (
                deltas.penalty(FORGETTING).sum()
                if isinstance(deltas, MaskedDeltas)
                else forgetting(deltas, task.change)
            )
            losses[FORGETTING] = config.forgetting_weight * again
        return losses
