"""Coherence: whether pictures are more alike than pictures of different things. Of samples: whether these are so too.

Both are ours, in no paper. How alike two pictures of one thing are differs from CLIP model to CLIP model, and how alike
those of different things are as well: so one is measured against the other.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from conceptctl.metrics.clip_scores import clip_i2i


def similarity(features: Tensor) -> float:
    """Return the mean cosine similarity of two different pictures of a set.

    Args:
        features: Of the pictures (N, D), N at least 2.
    """
    count = len(features)
    unit = functional.normalize(features.double(), dim=1)
    alike = unit @ unit.T
    return ((alike.sum() - alike.trace()) / (count * (count - 1))).item()


def coherence(features: Tensor, different: float) -> float:
    """Return where pictures are between those of different things, 0, and one picture again and again, 1.

    Args:
        features: Of the pictures (N, D), N at least 2.
        different: The similarity of pictures of different things, less than 1.
    """
    return (similarity(features) - different) / (1 - different)


def sample_similarity(samples: Tensor, features: Tensor, different: float) -> float:
    """Return how like a concept's pictures samples are: 0 as different things, 1 as these are like one another.

    Args:
        samples: Of what was drawn (K, D).
        features: Of the concept's pictures (N, D), N at least 2, more alike than different things.
        different: The similarity of pictures of different things.
    """
    return (clip_i2i(samples, features) - different) / (similarity(features) - different)
