"""Diversity: how far apart the pictures of a set are, against how far real ones are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def diversity(features: Tensor, reference: Tensor) -> float:
    """Mean distance between generated pictures over that between real ones.

    The papers' kernel hardly sees a set that has collapsed onto one picture; this does.

    Args:
        features: Features of generated pictures (N, D), N at least 2.
        reference: Features of real pictures (M, D), M at least 2.

    Returns:
        1 when they are equally spread, 0 when all generated pictures are one.
    """
    ours, theirs = (torch.pdist(functional.normalize(part.double(), dim=1)).mean() for part in (features, reference))
    return (ours / theirs).item()
