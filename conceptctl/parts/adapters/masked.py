"""Low-rank adapters of which a learned mask lets some entries pass: (A B) * M (STAMINA eq. 5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from conceptctl.learning.method import ParameterGroups
from conceptctl.learning.weights import Deltas
from conceptctl.parts.adapters.low_rank import LowRank
from conceptctl.parts.masks import FORMS, masked, noise_table

MASK_EPSILON = 1e-15
"""Adam's eps for the masks: their gradients are of order 1e-8 and less, which the usual 1e-8 would not normalize."""


class Masked(nn.Module):
    """A low-rank adapter and a mask over each of its deltas."""

    def __init__(
        self,
        low_rank: LowRank,
        form: str,
        rank: int,
        learning_rate: float,
        temperature: float,
        logit_mean: float,
        logit_std: float,
        *,
        generator: torch.Generator,
    ) -> None:
        """Make the masks.

        Args:
            low_rank: What is masked.
            form: One of `masks.FORMS`.
            rank: Width of the mask's MLP.
            learning_rate: Of the masks.
            temperature: tau of the Gumbel softmax.
            logit_mean: By how much entries start out open, in logits: the mean.
            logit_std: Their deviation.
            generator: Source of the first values.
        """
        super().__init__()
        self.low_rank = low_rank
        self.masks: nn.ModuleList = nn.ModuleList(
            FORMS[form](len(paths), shape, rank, logit_mean, logit_std, generator)
            for paths, shape in low_rank.shapes.items()
        )
        self.learning_rate, self.temperature = learning_rate, temperature
        self._table: Tensor | None = None
        self._table_seed = int(torch.randint(2**62, (), generator=generator))
        self.densities = torch.empty(0)
        """The share of each matrix that the last step's mask lets pass, with its graph, for a sparsity loss."""

    def forward(self, generator: torch.Generator) -> Deltas:
        """The deltas of a training step, through freshly drawn masks."""
        products = self.low_rank.products()
        sizes = [product.numel() for product in products.values()]
        noise = self._noise(sum(sizes), next(iter(products.values())).device, generator)
        deltas, densities = {}, []
        for (paths, product), form, part in zip(products.items(), self.masks, noise.split(sizes), strict=True):
            deltas[paths], density = masked(product, form(), part.view_as(product), self.temperature)
            densities.append(density)
        self.densities = torch.cat(densities)
        return Deltas(deltas)

    def _noise(self, count: int, device: torch.device, generator: torch.Generator) -> Tensor:
        """A step's noise, drawn where it is needed; on a CPU, where that takes long, any window of a table."""
        if device.type != "cpu":
            seed = int(torch.randint(2**62, (), generator=generator))
            return noise_table(count, self.temperature, torch.Generator(device).manual_seed(seed))
        if self._table is None:
            self._table = noise_table(2 * count, self.temperature, torch.Generator().manual_seed(self._table_seed))
        first = int(torch.randint(count + 1, (), generator=generator))
        return self._table[first : first + count]

    def folded(self) -> Deltas:
        """The deltas through the masks' argmax: what is kept, and what is evaluated."""
        products = self.low_rank.products()
        return Deltas(
            {paths: product * (form() > 0) for (paths, product), form in zip(products.items(), self.masks, strict=True)}
        )

    def groups(self) -> ParameterGroups:
        """The factors, and the masks at a rate of their own."""
        masks = {"params": list(self.masks.parameters()), "lr": self.learning_rate, "eps": MASK_EPSILON}
        return [*self.low_rank.groups(), masks]

    def measures(self) -> Mapping[str, Tensor]:
        """Density: the share of entries that pass by argmax; openness: the mean chance to pass in training."""
        differences = torch.cat([form().flatten() for form in self.masks])
        return {"density": (differences > 0).float().mean(), "openness": differences.sigmoid().mean()}
