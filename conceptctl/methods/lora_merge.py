"""LoRA merge: adapters that were learned each on the base, with equal weights ("Mining your own secrets")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from conceptctl.learning.method import Learned, Method, Task, Trainable
from conceptctl.learning.weights import Deltas
from conceptctl.parts.adapters.low_rank import LowRank
from conceptctl.parts.adapters.pretrained import OnPretrained, own_adapter
from conceptctl.parts.consolidation.merging import merged_before
from conceptctl.parts.tokens import TokenEmbedding

KINDS = ("merged_up", "merged_down")


class LoraMerge(Method):
    """Every concept's adapter is kept as it was learned; the weights have the mean of all."""

    name = "lora-merge"
    paper = "Mining your own secrets (2024), section 4; Ilharco et al. 2023, Editing models with task arithmetic"
    trained_on = "pretrained"

    def attach(self, task: Task) -> Trainable:
        """Make adapters over the base, and a token row."""
        merged_before(task, KINDS)
        generator = torch.Generator().manual_seed(task.seed)
        own = LowRank(task.shapes, self.config.rank, self.config.learning_rate, generator=generator)
        return Trainable(OnPretrained(own, task), TokenEmbedding(task.token_start), self.config.token_learning_rate)

    @torch.no_grad()
    def finish(self, task: Task, trainable: Trainable) -> Learned:
        """The mean with this adapter less what is in the weights of it, and the adapter's factors."""
        own = own_adapter(trainable)
        assert isinstance(own, LowRank)
        state = own.factors_by_path(*KINDS)
        before = merged_before(task, KINDS)
        increments = {}
        for path in task.shapes:
            parts = [(each[f"{KINDS[0]}/{path}"], each[f"{KINDS[1]}/{path}"]) for each in (*before.states, state)]
            products = [up.cpu() @ down.cpu() for up, down in parts]
            known = before.back[path].cpu() if before.back else -mean(products[:-1], like=products[-1])
            increments[path] = mean(products, like=products[-1]) + known
        return Learned(Deltas.of(increments), trainable.tokens(), state, before.contains)


def mean(products: Sequence[Tensor], *, like: Tensor) -> Tensor:
    """Task arithmetic with equal weights (Ilharco et al. 2023), of matrices (D1, D2); 0 of none."""
    return sum(products, torch.zeros_like(like)) / max(1, len(products))
