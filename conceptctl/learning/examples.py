"""What a training draws from: latents with a prompt each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_SHOWN = 8


@dataclass(frozen=True)
class Examples:
    """Latents with a prompt each: the concept's, and auxiliary ones that it is learned beside."""

    latents: Tensor
    """(N, C, H, W), fp32, on the device."""
    prompts: Sequence[str]
    concept: int
    """How many of them, the first ones, are the concept's."""

    def choose(self, concept: int, auxiliary: int, generator: torch.Generator) -> Tensor:
        """Draw the examples of a step: so many of each kind, where there are any; indices (B,) on the CPU."""
        ours = _some(self.concept, concept, generator)
        everything = len(self.latents)
        if everything == self.concept or not auxiliary:
            return ours
        theirs = torch.randint(self.concept, everything, (auxiliary,), generator=generator)
        return torch.cat([ours, theirs])

    def shown(self) -> Tensor:
        """A few of the concept's, spread evenly, on which errors can be measured; indices on the CPU."""
        return torch.linspace(0, self.concept - 1, min(_SHOWN, self.concept)).long()


def _some(of: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw some of so many, the same one twice only where there are too few."""
    rounds = [torch.randperm(of, generator=generator) for _ in range(-(-count // of))]
    return torch.cat(rounds)[:count]
