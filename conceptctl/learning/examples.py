"""What a training draws from: latents with a prompt each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conceptctl.learning.backbone import Crop

_SHOWN = 8


@dataclass(frozen=True)
class Examples:
    """Latents with a prompt each: the concept's, and auxiliary ones that it is learned beside."""

    latents: Tensor | Sequence[Tensor]
    """(N, C, H, W), fp32, on the device; where their shapes differ N of (C, H, W)."""
    prompts: Sequence[str]
    concept: int
    """How many of them, the first ones, are the concept's."""
    crops: Sequence[Crop] = ()
    """What pictures they are of; nothing where that is all of them, at the size that they have."""

    def choose(self, concept: int, auxiliary: int, generator: torch.Generator) -> Tensor:
        """Draw the examples of a step: so many of each kind, where there are any; indices (B,) on the CPU."""
        ours = _some(self.concept, concept, generator)
        everything = len(self.latents)
        if everything == self.concept or not auxiliary:
            return ours
        theirs = torch.randint(self.concept, everything, (auxiliary,), generator=generator)
        return torch.cat([ours, theirs])

    def by_shape(self, indices: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The latents of some examples, those of one shape together.

        Args:
            indices: Of the examples, (B,), on the CPU.

        Returns:
            For each shape, in the order in which they come: the indices (b,) and the latents (b, C, H, W).
        """
        if isinstance(self.latents, Tensor):
            return [(indices, self.latents[indices.to(self.latents.device, non_blocking=True)])]
        groups: dict[torch.Size, list[int]] = {}
        for index in indices.tolist():
            groups.setdefault(self.latents[index].shape, []).append(index)
        return [
            (torch.tensor(group), torch.stack([self.latents[index] for index in group])) for group in groups.values()
        ]

    def shown(self) -> tuple[Tensor, Tensor]:
        """A few of the concept's, on which errors can be measured: spread evenly over those of the commonest shape.

        Returns:
            Their indices on the CPU, and their latents.
        """
        return self._few_of(torch.arange(self.concept))

    def shown_beside(self) -> tuple[Tensor, Tensor] | None:
        """The same of the auxiliary ones; None where there are none."""
        beside = torch.arange(self.concept, len(self.latents))
        return self._few_of(beside) if len(beside) else None

    def _few_of(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        own, _ = max(self.by_shape(indices), key=lambda group: len(group[0]))
        places = torch.linspace(0, len(own) - 1, min(_SHOWN, len(own))).long()
        ((indices, latents),) = self.by_shape(own[places])
        return indices, latents


def _some(of: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw some of so many, the same one twice only where there are too few."""
    rounds = [torch.randperm(of, generator=generator) for _ in range(-(-count // of))]
    return torch.cat(rounds)[:count]
