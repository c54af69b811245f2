"""What prompts are to a transformer: tokens before its input, and prefixes of its keys and values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

Prefix = tuple[Tensor, Tensor]
"""Keys and values, each (B, L, D), that every token of a layer attends to beside the layer's own."""


@dataclass(frozen=True)
class Prompts:
    """What a batch of B pictures is given beside itself; D is the transformer's width."""

    prepended: Tensor | None = None
    """Tokens before the input's own, (B, T, D). What comes out at their places is averaged, and classified by (Wang et
    al. 2022, "Learning to prompt for continual learning", eq. 5)."""
    prefixes: Mapping[int, Prefix] = field(default_factory=dict)
    """By layer, counted from 0."""
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    """What is added to the loss, by name: of each picture, (B,), or of the prompts themselves, ()."""


class Promptable(Protocol):
    """A network that can be given prompts."""

    def prompted(self, source: Callable[[Tensor], Prompts] | None) -> AbstractContextManager[None]:
        """As long as the context lasts, ask for each batch's prompts, given what is said of it without any, (B, D)."""


def prefixed(keys: Tensor, values: Tensor, prefix: Prefix) -> tuple[Tensor, Tensor]:
    """Put a prefix before the keys and values of one layer's self-attention.

    They are taken as projected already, as in the authors' code: DualPrompt's equation (section 4.2) may be read as if
    the layer's projections came after.

    Args:
        keys: Of the layer's own tokens, (B, heads, S, D / heads).
        values: Of the same shape.
        prefix: Keys and values (B, L, D).

    Returns:
        Keys and values, (B, heads, L + S, D / heads).
    """
    heads = keys.shape[1]
    before = (part.unflatten(2, (heads, -1)).transpose(1, 2).to(keys.dtype) for part in prefix)
    first, second = (torch.cat([part, own], 2) for part, own in zip(before, (keys, values), strict=True))
    return first, second
