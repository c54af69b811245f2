"""Closeness: how far each picture has come from what a base draws of the class towards the concept itself.

A_mmd compares the means of two sets, because its kernel is nearly linear on features of length 1. Shapeless pictures
whose mean is right pass for good ones, and good ones in other surroundings for bad ones. A person looks at one picture
at a time and asks whether it could be one of the real ones. So does this: of each picture, the cosine similarity with
the held-out picture that is nearest to it (as precision does, Kynkäänniemi et al. 2019, "Improved precision and recall
metric"), on a scale whose two ends are measured in the same run.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

LIKE = 0.8
"""The place on the scale from which on a picture counts as one of the concept. Pictures of another subject of the same
class come to 0.5 at most; nine of ten pictures of concepts that a person, and the bundled base's judge, find well
learned are above 0.8 (`benchmarks/verdicts.py`)."""


@dataclass(frozen=True)
class Scale:
    """From what the base draws of the class, 0, to how alike real pictures are, 1.

    Attributes:
        heldout: Features of real pictures (M, D), M at least 2.
        low: Mean similarity of the class's pictures with the held-out picture that is nearest to each.
        high: The same of the held-out pictures among themselves, each left out once (leave-one-out).
        error: Standard error of `high`.
    """

    heldout: Tensor
    low: float
    high: float
    error: float

    @property
    def tells_apart(self) -> bool:
        """Whether the held-out pictures are more alike than the class's pictures are to them, beyond chance."""
        return self.high - self.low > 2 * self.error

    def places(self, features: Tensor) -> Tensor:
        """Return the place of each picture (N, D) on the scale, (N,): above 1 for what is nearer than real ones are."""
        return (nearest(features, self.heldout) - self.low) / (self.high - self.low)


def scale_of(heldout: Tensor, class_pictures: Tensor) -> Scale:
    """Measure both ends of the scale.

    Args:
        heldout: Features of real pictures (M, D), M at least 2.
        class_pictures: Features of what the base draws of the class (C, D), C at least 1.
    """
    alike = _cosines(heldout, heldout)
    alike.fill_diagonal_(-torch.inf)
    among = alike.max(1).values
    error = among.std().item() / len(among) ** 0.5
    return Scale(heldout, nearest(class_pictures, heldout).mean().item(), among.mean().item(), error)


def nearest(features: Tensor, heldout: Tensor) -> Tensor:
    """Return each picture's cosine similarity with the held-out picture nearest to it: (N, D), (M, D) to (N,)."""
    return _cosines(features, heldout).max(1).values


def like(places: Tensor) -> int:
    """Count the pictures that look like the concept, from their places on the scale."""
    return int((places >= LIKE).sum())


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    return functional.normalize(first.double(), dim=1) @ functional.normalize(second.double(), dim=1).T
