"""What a training draws from: latents with a prompt each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conceptctl.diffusion.regions import Prompt


@dataclass(frozen=True)
class Examples:
    """Latents with a prompt each: the concept's, auxiliary ones that it is learned beside, and scenes with both."""

    latents: Tensor
    """(N, C, H, W), fp32, on the device."""
    prompts: Sequence[Prompt]
    concept: int
    """How many of them, the first ones, are the concept's."""
    scenes: int = 0
    """How many of them, the last ones, are scenes."""
    learned_from: Tensor | None = None
    """Which latents of each scene are learned from, 1 or 0, (scenes, 1, H, W), on the device; None for all."""

    def choose(self, concept: int, auxiliary: int, scenes: int, generator: torch.Generator) -> Tensor:
        """Draw the examples of a step: so many of each kind, where there are any; indices (B,) on the CPU."""
        parts = [_some(self.concept, concept, generator)]
        first_scene = len(self.latents) - self.scenes
        for first, end, count in (
            (self.concept, first_scene, auxiliary),
            (first_scene, len(self.latents), scenes),
        ):
            if end > first and count:
                parts.append(torch.randint(first, end, (count,), generator=generator))
        return torch.cat(parts)

    def counted(self, chosen: Tensor) -> Tensor | None:
        """What each latent of chosen examples (B,) counts, (B, 1, H, W); None where all count alike."""
        if self.learned_from is None or not self.scenes:
            return None
        scene = (chosen - (len(self.latents) - self.scenes)).to(self.latents.device, non_blocking=True)
        shares = self.learned_from[scene.clamp(min=0)]
        return torch.where(scene[:, None, None, None] >= 0, shares, 1.0)


def _some(of: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw some of so many, the same one twice only where there are too few."""
    rounds = [torch.randperm(of, generator=generator) for _ in range(-(-count // of))]
    return torch.cat(rounds)[:count]
