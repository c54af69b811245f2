"""CLIP I2I and T2I: image and text alignment (Kumari et al. 2023, section 4; DC-score, appendix E)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def clip_i2i(generated: Tensor, real: Tensor) -> float:
    """Mean cosine similarity of every generated picture with every real one: (N, D), (M, D). Larger is better."""
    return _cosines(generated, real).mean().item()


def clip_t2i(generated: Tensor, prompt: Tensor) -> float:
    """Mean cosine similarity of generated pictures with what was asked for: (N, D), (1, D). Larger is better."""
    return _cosines(generated, prompt).mean().item()


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    return functional.normalize(first.double(), dim=1) @ functional.normalize(second.double(), dim=1).T
