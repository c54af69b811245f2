"""Text encoders of models with joint attention: CLIP's beside T5's, whose tokenizers have other vocabularies.

A network with joint attention is told a row of hidden states, and one pooled state. Which encoder gives what is a
`JointLayout`: a family's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from conceptctl.diffusion.backbone import ClipText
from conceptctl.diffusion.prompts import spelled_alike
from conceptctl.diffusion.text_encoders import PooledStates, TextEncoders
from conceptctl.errors import UsageError

_NOTHING = -1
"""Stands behind the tokens of encoders that read less than the one that reads most; it is never given to any."""


@dataclass(frozen=True)
class JointLayout:
    """How a network with joint attention is told a prompt.

    Attributes:
        clip: CLIP's text encoders, in order.
        t5: T5's, by name; where the folder has none, its states are zeros.
        t5_length: How many tokens T5 reads, however short the prompt is.
        sequence: Whether CLIP's hidden states are a part of the row too, or pooled ones alone.
    """

    clip: tuple[str, ...]
    t5: str
    t5_length: int
    sequence: bool


class JointTextEncoders(TextEncoders):
    """CLIP's text encoders and T5's as one; see `TextEncoders`."""

    def __init__(self, tokenizers: Sequence[Any], encoders: Mapping[str, Any], layout: JointLayout, width: int) -> None:
        """Take a tokenizer for each text encoder, CLIP's before T5's.

        Args:
            tokenizers: One for each encoder.
            encoders: By name.
            layout: Which encoder gives what.
            width: Of the hidden states that the network takes, (B, T, width).
        """
        super().__init__(tokenizers, encoders)
        self.layout, self.width = layout, width
        names = list(self.encoders)
        self._lengths = [layout.t5_length if name == layout.t5 else self.tokenizer.model_max_length for name in names]

    def tables(self) -> dict[str, nn.Embedding]:
        """Each encoder's token table, as it is read: T5's stands in two places, of which one is never called."""
        tables = super().tables()
        if self.layout.t5 in tables:
            tables[self.layout.t5] = self.encoders[self.layout.t5].encoder.embed_tokens
        return tables

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """Prompts as the pipeline gives them to its text encoders: numbers of tokens (N, encoders, T).

        T is that of the encoder that reads most; what the others do not read is -1.
        """
        texts, longest, columns = [spelled_alike(each) for each in prompts], max(self._lengths), []
        for tokenizer, length in zip(self.tokenizers, self._lengths, strict=True):
            own = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
            columns.append(functional.pad(own.input_ids, (0, longest - length), value=_NOTHING))
        return torch.stack(columns, dim=1)

    def encode(self, ids: Tensor) -> PooledStates:
        """What the network is told, given numbers of tokens (N, encoders, T) on their device.

        Hidden states: those before the last layer of CLIP's encoders side by side, filled up with zeros to the width of
        T5's, and T5's behind them (Esser et al. 2024, "Scaling rectified flow transformers for high-resolution image
        synthesis", section 4); or T5's alone. Pooled: CLIP's, side by side.
        """
        columns = dict(zip(self.encoders, zip(ids.unbind(dim=1), self._lengths, strict=True), strict=True))
        hidden, pooled = [], []
        for name in self.layout.clip:
            numbers, length = columns[name]
            made = self.encoders[name](numbers[:, :length], output_hidden_states=True)
            hidden.append(made.hidden_states[-2])
            pooled.append(made.text_embeds if "text_embeds" in made else made.pooler_output)
        parts = []
        if self.layout.sequence:
            beside = torch.cat(hidden, dim=-1)
            parts.append(functional.pad(beside, (0, self.width - beside.shape[-1])))
        if self.layout.t5 in columns:
            numbers, length = columns[self.layout.t5]
            parts.append(self.encoders[self.layout.t5](numbers[:, :length])[0])
        else:
            parts.append(pooled[0].new_zeros(len(ids), self.layout.t5_length, self.width))
        return PooledStates(torch.cat(parts, dim=1), torch.cat(pooled, dim=-1))

    @torch.no_grad()
    def encode_prompt(self, prompt: str) -> PooledStates:
        """What the network is told of one prompt, for one sample."""
        return self.encode(self.ids([prompt]).to(self.device))


def encoders_of(pipeline: Any, layout: JointLayout) -> JointTextEncoders:
    """A pipeline's text encoders, those that it has, and their tokenizers."""
    names = [name for name in (*layout.clip, layout.t5) if getattr(pipeline, name, None) is not None]
    tokenizers = [getattr(pipeline, name.replace("text_encoder", "tokenizer")) for name in names]
    width: int = pipeline.transformer.config.joint_attention_dim
    return JointTextEncoders(tokenizers, {name: getattr(pipeline, name) for name in names}, layout, width)


class JointText(ClipText):
    """Tokenizers and text encoders whose states change from layer to layer of the network that reads them.

    What a target sees of a prompt is not what a text encoder gives: joint attention mixes picture and prompt in every
    layer. So whatever is computed from the text encoders' states alone, as if targets saw those, is refused.
    """

    def hidden_states(self, texts: Sequence[str], token_ids: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Refused: see `JointText`."""
        raise not_the_encoders_states()

    def reference_moment(self, texts: Sequence[str], *, without: Sequence[int] = (), count: int = 0) -> Tensor:
        """Refused: see `JointText`."""
        raise not_the_encoders_states()

    def reference_factor(self, texts: Sequence[str], *, without: Sequence[int] = ()) -> Tensor:
        """Refused: see `JointText`."""
        raise not_the_encoders_states()

    def with_prompts(self, factor: Tensor, groups: Sequence[Sequence[str]]) -> Tensor:
        """Refused: see `JointText`."""
        raise not_the_encoders_states()


def not_the_encoders_states() -> UsageError:
    """What is said where something would be computed from the text encoders' states alone."""
    return UsageError(
        "with joint attention what a prompt gives changes from layer to layer, and nothing can be computed from the "
        "text encoders alone"
    )
