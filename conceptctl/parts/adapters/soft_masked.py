"""Low-rank adapters through soft masks: (A B) * sigmoid(d), STAMINA's ablation of the hard Gumbel mask (table 2b)."""

from __future__ import annotations

import torch
from torch import Tensor

from conceptctl.learning.weights import Deltas
from conceptctl.parts.adapters.masked import Masked


class SoftMasked(Masked):
    """As `Masked`, with masks of any value between 0 and 1: nothing is drawn, and what trains is what is kept."""

    densities: Tensor
    """The mean of each mask of the last step, (n,), with its graph, for a sparsity loss."""

    def forward(self, generator: torch.Generator) -> Deltas:
        """The deltas."""
        deltas, densities = {}, []
        for (paths, product), form in zip(self.low_rank.products().items(), self.masks, strict=True):
            mask = form().sigmoid()
            deltas[paths] = product * mask
            densities.append(mask.mean(dim=(1, 2)))
        self.densities = torch.cat(densities)
        return Deltas(deltas)

    def folded(self) -> Deltas:
        """The deltas, the same ones."""
        products = self.low_rank.products()
        return Deltas(
            {
                paths: product * form().sigmoid()
                for (paths, product), form in zip(products.items(), self.masks, strict=True)
            }
        )
