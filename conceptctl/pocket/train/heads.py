"""Answers to the world's questions, read off feature vectors, and the loss that teaches them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from conceptctl.pocket.world.labels import SIZES, UNKNOWN


def answer_loss(logits: Tensor, labels: Tensor, sizes: Sequence[int] = SIZES) -> Tensor:
    """Cross-entropy averaged over all questions that have an answer.

    Args:
        logits: (B, sum of `sizes`).
        labels: (B, number of questions), `UNKNOWN` where there is no answer.
        sizes: How many answers each question has.
    """
    total = logits.new_zeros((), dtype=torch.float32)
    for part, label in zip(logits.float().split(tuple(sizes), dim=1), labels.unbind(dim=1), strict=True):
        total = total + functional.cross_entropy(part, label, ignore_index=UNKNOWN, reduction="sum")
    return total / (labels != UNKNOWN).sum().clamp(min=1)


def right_answers(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count right answers and questions, for each question: two tensors (number of questions,)."""
    right, asked = [], []
    for part, label in zip(logits.split(SIZES, dim=1), labels.unbind(dim=1), strict=True):
        known = label != UNKNOWN
        right.append(((part.argmax(dim=1) == label) & known).sum())
        asked.append(known.sum())
    return torch.stack(right), torch.stack(asked)


def answer_layer(width: int, subjects: int, sizes: Sequence[int] = SIZES) -> nn.Linear:
    """A linear layer from features to the answers about some subjects, one after the other."""
    return nn.Linear(width, subjects * sum(sizes))
