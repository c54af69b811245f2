"""Low-rank adapters of which a learned mask lets some entries pass: (A B) * M (STAMINA eq. 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from conceptctl.learning.method import ParameterGroups
from conceptctl.learning.weights import Deltas, Shape
from conceptctl.parts.adapters.low_rank import LowRank
from conceptctl.parts.adapters.masked_deltas import MaskedDeltas, MaskedProduct
from conceptctl.parts.masks import ALL, FORMS, OPEN, MaskForm, noise_table, start_logits
from conceptctl.parts.penalties import Penalty

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
        penalties: Mapping[str, Callable[[torch.Generator], Penalty]] | None = None,
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
            penalties: What is measured of a step's deltas in passing, by name: each is begun in every step, with what
                the step draws from.
        """
        super().__init__()
        self.low_rank = low_rank
        self.masks: nn.ModuleList = nn.ModuleList(
            FORMS[form](len(paths), shape, rank, logit_mean, logit_std, generator)
            for paths, shape in low_rank.shapes.items()
        )
        self.learning_rate, self.temperature = learning_rate, temperature
        self.penalties = dict(penalties or {})
        self._table: Tensor | None = None
        self._table_seed = int(torch.randint(2**62, (), generator=generator))

    def forward(self, generator: torch.Generator) -> Deltas:
        """The deltas of a training step, through masks that are drawn once for the step."""
        noise = self._noise(generator)
        stacks = zip(self.low_rank.shapes, self.low_rank.pairs(), self._forms(), strict=True)
        leaves = [
            (path, form, matrix)
            for paths, pair, form in stacks
            for path, *matrix in zip(paths, *(part.split(1) for part in (*pair, *form.parts())), strict=True)
        ]
        # The noise is drawn before what the penalties draw.
        drawn = list(zip(leaves, noise, strict=True))
        penalties = [begin(generator) for begin in self.penalties.values()]
        products = [
            MaskedProduct(path, matrix, form, its_noise, self.temperature, penalties)
            for (path, form, matrix), its_noise in drawn
        ]
        return MaskedDeltas(list(self.low_rank.shapes), products, list(self.penalties))

    @torch.no_grad()
    def wait(self) -> None:
        """Let every entry pass, until `start`; for forms of `masks.PER_ENTRY`."""
        for form in self._forms():
            form.begin(torch.full_like(form(), OPEN))

    @torch.no_grad()
    def start(self) -> None:
        """Let entries begin by how large A B is at them; see `masks.start_logits`. Twice is the same as once."""
        for form, logits in zip(self._forms(), start_logits(list(self.low_rank.products().values())), strict=True):
            form.begin(logits)

    def _forms(self) -> list[MaskForm]:
        return [cast("MaskForm", form) for form in self.masks]

    def _noise(self, generator: torch.Generator) -> Iterator[Callable[[], Tensor]]:
        """A step's noise, projection by projection, the same in every call.

        It is drawn where it is needed; on a CPU, where that takes long, it is any window of a table.
        """
        shapes = [shape for paths, shape in self.low_rank.shapes.items() for _ in paths]
        count = sum(rows * columns for rows, columns in shapes)
        device = self.low_rank.up[0].device
        if device.type != "cpu":
            seed = int(torch.randint(2**62, (), generator=generator))
            for index, shape in enumerate(shapes):
                yield partial(self._drawn, shape, seed + index, device)
            return
        if self._table is None:
            self._table = noise_table(2 * count, self.temperature, torch.Generator().manual_seed(self._table_seed))
        first = int(torch.randint(count + 1, (), generator=generator))
        for rows, columns in shapes:
            yield partial(self._table[first : first + rows * columns].view, 1, rows, columns)
            first += rows * columns

    def _drawn(self, shape: Shape, seed: int, device: torch.device) -> Tensor:
        generator = torch.Generator(device).manual_seed(seed)
        return noise_table(shape[0] * shape[1], self.temperature, generator).view(1, *shape)

    def folded(self) -> Deltas:
        """The deltas through the masks' argmax: what is kept, and what is evaluated."""
        masks = dict(zip(self.low_rank.shapes, (form() > 0 for form in self._forms()), strict=True))
        whole = self.low_rank.folded()
        return Deltas(
            {paths: product * masks[paths] for paths, product in whole.stacks.items()},
            {paths: replace(each, mask=masks[paths]) for paths, each in whole.products.items()},
        )

    def sizes(self) -> Tensor:
        """How many entries each mask has, (n,), in the order of the step's densities."""
        shapes = [shape for paths, shape in self.low_rank.shapes.items() for _ in paths]
        return torch.tensor([float(rows * columns) for rows, columns in shapes], device=self.low_rank.up[0].device)

    def densities(self) -> Tensor:
        """The share of each mask that passes by chance, (n,), with its graph."""
        return torch.cat([form().sigmoid().mean(dim=(1, 2)) for form in self._forms()])

    def groups(self) -> ParameterGroups:
        """The factors, and the masks at a rate of their own."""
        masks = {"params": list(self.masks.parameters()), "lr": self.learning_rate, "eps": MASK_EPSILON}
        return [*self.low_rank.groups(), masks]

    def measures(self) -> Mapping[str, Tensor]:
        """Density: the share of entries that pass by argmax; openness: the mean chance to pass in training."""
        count, passing, chances = 0, [], []
        for form in self._forms():
            # One after the other: all at once would be several times what a step keeps.
            for parts in zip(*(part.split(1) for part in form.parts()), strict=True):
                differences = form.differences(ALL, *parts)
                passing.append((differences > 0).sum())
                chances.append(differences.sigmoid_().sum())
                count += differences.numel()
        return {"density": torch.stack(passing).sum() / count, "openness": torch.stack(chances).sum() / count}
