"""Low-rank adapters through soft masks: (A B) * sigmoid(d), STAMINA's ablation of the hard Gumbel mask (table 2b)."""

from __future__ import annotations

import torch

from conceptctl.learning.weights import Deltas
from conceptctl.parts.adapters.masked import Masked


class SoftMasked(Masked):
    """As `Masked`, with masks of any value between 0 and 1: nothing is drawn, and what trains is what is kept."""

    def forward(self, generator: torch.Generator) -> Deltas:
        """The deltas; nothing in them is random."""
        return self.folded()

    def folded(self) -> Deltas:
        """The deltas."""
        products = self.low_rank.products()
        return Deltas(
            {
                paths: product * form().sigmoid()
                for (paths, product), form in zip(products.items(), self.masks, strict=True)
            }
        )
