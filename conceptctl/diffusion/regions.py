"""Several subjects in one picture, each in a column of its own.

A concept takes all of a picture that its token can reach. So cross-attention sees the prompt as a whole everywhere,
and what is said of one column in that column alone (after the regionally controllable sampling of Gu et al. 2023,
"Mix-of-Show: Decentralized low-rank adaptation for multi-concept customization of diffusion models").
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from conceptctl.errors import UsageError

OVERLAP = 1 / 8
"""How much of a column's width each of its neighbours' prompts is seen in too: what stands side by side touches."""


@dataclass(frozen=True)
class Composition:
    """What a picture of several subjects is drawn from."""

    whole: str
    """The prompt of the whole picture, which names no concept."""
    columns: tuple[str, ...]
    """The prompts of equal columns, from left to right."""


Prompt = str | Composition
"""What to draw, or what a picture shows."""


def prompts_of(prompt: Prompt) -> tuple[str, ...]:
    """The texts of a prompt, the whole picture's first: the order in which their hidden states follow each other."""
    return (prompt.whole, *prompt.columns) if isinstance(prompt, Composition) else (prompt,)


class Regions:
    """Which samples of a batch are composed, and of how many columns."""

    def __init__(self, columns: int, device: torch.device) -> None:
        self.columns, self.device = columns, device
        self.rows: tuple[Tensor, Tensor, Tensor] | None = None
        """Which samples are not composed and which are, and where each of the batch is among them, one after the
        other; None where none is."""
        self._masks: dict[tuple[int, int], Tensor] = {}

    def compose(self, composed: Tensor) -> None:
        """Say which samples of the next batches are composed, (B,) on the CPU.

        Those see their columns' prompts; the others see the first prompt alone, as they would without columns.
        """
        self.rows = None
        if composed.any():
            rows = (~composed).nonzero().flatten(), composed.nonzero().flatten()
            plain, own, order = (each.to(self.device, non_blocking=True) for each in (*rows, torch.cat(rows).argsort()))
            self.rows = plain, own, order

    def seen(self, places: int, states: int) -> Tensor:
        """Which hidden states each place of a composed sample's feature map attends to, (places, states).

        Args:
            places: Of a square feature map, row by row.
            states: The hidden states of all prompts, one after the other.

        Raises:
            UsageError: The feature map is not square.
        """
        if (places, states) not in self._masks:
            width, length = math.isqrt(places), states // (self.columns + 1)
            if width * width != places:
                raise UsageError("the pictures of this base are not square", hint="--no-columns")
            prompt = torch.arange(states) // length
            # How far right a place is, in columns; from their middle, half a column is inside, and the nearest place
            # where columns are narrower than places.
            place = ((torch.arange(width) + 0.5) * self.columns / width).repeat(width)
            inside = (place[:, None] - (prompt - 0.5)).abs() <= max(0.5 + OVERLAP, self.columns / width / 2)
            self._masks[places, states] = (inside | (prompt == 0)).to(self.device)
        return self._masks[places, states]


@contextmanager
def regions(unet: nn.Module, columns: int) -> Iterator[Regions]:
    """Let a U-Net's cross-attention see so many columns, or what it sees anyhow; leave it as it was."""
    shared = Regions(columns, next(unet.parameters()).device)
    found: dict[Any, Any] = {
        module: module.processor for name, module in unet.named_modules() if columns and name.endswith("attn2")
    }
    try:
        for module, processor in found.items():
            module.set_processor(_InColumns(processor, shared))
        yield shared
    finally:
        for module, processor in found.items():
            module.set_processor(processor)


class _InColumns:
    """Cross-attention with columns, as a processor of diffusers; what is not composed it leaves to the former one."""

    def __init__(self, processor: Any, shared: Regions) -> None:
        self.processor, self.shared = processor, shared

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *rest: Any, **named: Any
    ) -> Tensor:
        if self.shared.rows is None:
            attended: Tensor = self.processor(attn, hidden_states, encoder_hidden_states, *rest, **named)
            return attended
        plain, own, order = self.shared.rows
        parts = [self._composed(attn, hidden_states[own], encoder_hidden_states[own])]
        if len(plain):
            first = encoder_hidden_states[plain, : encoder_hidden_states.shape[1] // (self.shared.columns + 1)]
            parts.insert(0, self.processor(attn, hidden_states[plain], first))
        return torch.cat(parts)[order]

    def _composed(self, attn: Any, features: Tensor, states: Tensor) -> Tensor:
        made = attn.to_q(features), attn.to_k(states), attn.to_v(states)
        query, key, value = (each.unflatten(2, (attn.heads, -1)).transpose(1, 2) for each in made)
        # One mask for all heads: diffusers' own processors copy it for each.
        mask = self.shared.seen(features.shape[1], states.shape[1])
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out: Tensor = attn.to_out[0](attended.transpose(1, 2).flatten(2))
        return out
