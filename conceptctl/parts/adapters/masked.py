"""Low-rank adapters of which a learned mask lets some entries pass: (A B) * M (STAMINA eq. 5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from conceptctl.diffusion.fit import ParameterGroups
from conceptctl.diffusion.projections import Deltas
from conceptctl.parts.adapters.low_rank import LowRank
from conceptctl.parts.masks import FORMS, MaskForm, masked, noise_table

MASK_EPSILON = 1e-15
"""Adam's eps for the masks: their gradients are of order 1e-8 and less, which the usual 1e-8 would not normalize."""


class Masked(nn.Module):
    """A low-rank adapter and a mask over each of its deltas."""

    def __init__(
        self,
        low_rank: LowRank,
        shapes: Mapping[str, tuple[int, int]],
        form: str,
        rank: int,
        learning_rate: float,
        temperature: float,
        open_by: float,
        spread: float,
        *,
        generator: torch.Generator,
    ) -> None:
        """Make the masks.

        Args:
            low_rank: What is masked.
            shapes: The projections, (D1, D2) by place.
            form: One of `masks.FORMS`.
            rank: Width of the mask's MLP.
            learning_rate: Of the masks; each form multiplies it with its `speed`.
            temperature: tau of the Gumbel softmax.
            open_by: By how much entries start out open, in logits: the mean.
            spread: Their deviation.
            generator: Source of the first values.
        """
        super().__init__()
        self.low_rank = low_rank
        self.masks: nn.ModuleList = nn.ModuleList(
            FORMS[form](shape, rank, open_by, spread, generator) for shape in shapes.values()
        )
        self.learning_rate, self.temperature = learning_rate, temperature
        self._table: Tensor | None = None
        self._table_seed = int(torch.randint(2**62, (), generator=generator))
        self.shares: list[Tensor] = []
        """The share of each matrix that the last step's mask lets pass, with its graph, for a sparsity loss."""

    def forward(self, generator: torch.Generator) -> Deltas:
        """The deltas of a training step, through freshly drawn masks."""
        products = self.low_rank.products()
        sizes = [product.numel() for product in products]
        noise = self._noise(sum(sizes), products[0].device, generator)
        passed = [
            masked(product, form(), part.view_as(product), self.temperature)
            for form, part, product in zip(self.masks, noise.split(sizes), products, strict=True)
        ]
        self.shares = [share for _, share in passed]
        return {place: delta for place, (delta, _) in zip(self.low_rank.places, passed, strict=True)}

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
        kept = [product * (form() > 0) for product, form in zip(self.low_rank.products(), self.masks, strict=True)]
        return dict(zip(self.low_rank.places, kept, strict=True))

    def groups(self) -> ParameterGroups:
        """The factors, and the masks at rates of their own."""
        of_speed: dict[float, list[nn.Parameter]] = {}
        for form in self.masks:
            assert isinstance(form, MaskForm)
            of_speed.setdefault(form.speed, []).extend(form.parameters())
        masks = [
            {"params": parameters, "lr": self.learning_rate * speed, "eps": MASK_EPSILON}
            for speed, parameters in of_speed.items()
        ]
        return [*self.low_rank.groups(), *masks]

    def measures(self) -> Mapping[str, Tensor]:
        """Density: the share of entries that pass by argmax; openness: the mean chance to pass in training."""
        differences = torch.cat([form().flatten() for form in self.masks])
        return {"density": (differences > 0).float().mean(), "openness": differences.sigmoid().mean()}
