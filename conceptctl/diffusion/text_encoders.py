"""The text encoders of a pipeline as one: one for Stable Diffusion 1 and 2, two beside each other for SDXL.

All of a pipeline's tokenizers have one vocabulary, so a word has one number in all; what they fill prompts up with
differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from conceptctl.learning.weights import TokenRows


@dataclass(frozen=True)
class PooledStates:
    """What networks are told that see a prompt as a whole too: used as a batch of hidden states is.

    Attributes:
        hidden: Hidden states (B, T, D).
        pooled: One state for each prompt, (B, P).
    """

    hidden: Tensor
    pooled: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """The type of the hidden states."""
        return self.hidden.dtype

    def __getitem__(self, index: Any) -> PooledStates:
        return PooledStates(self.hidden[index], self.pooled[index])

    def __len__(self) -> int:
        return len(self.hidden)

    def expand(self, count: int, *sizes: int) -> PooledStates:
        """One prompt's for so many samples; the other sizes are those of the hidden states."""
        return PooledStates(self.hidden.expand(count, *sizes), self.pooled.expand(count, -1))

    def split(self, portion: int) -> tuple[PooledStates, ...]:
        """Portions of the batch."""
        pairs = zip(self.hidden.split(portion), self.pooled.split(portion), strict=True)
        return tuple(PooledStates(*pair) for pair in pairs)


States = Tensor | PooledStates
"""Hidden states (B, T, D), with pooled ones where the network is told those."""


def cat(parts: Sequence[States]) -> States:
    """Put batches behind one another."""
    if all(isinstance(part, PooledStates) for part in parts):
        pooled = [part for part in parts if isinstance(part, PooledStates)]
        return PooledStates(torch.cat([part.hidden for part in pooled]), torch.cat([part.pooled for part in pooled]))
    return torch.cat([part for part in parts if isinstance(part, Tensor)])


def hidden_of(states: States) -> Tensor:
    """The hidden states (B, T, D) alone: what cross-attention sees."""
    return states.hidden if isinstance(states, PooledStates) else states


class TextEncoders:
    """Tokenizers and text encoders, by the name of the encoder."""

    def __init__(self, tokenizers: Sequence[Any], encoders: Mapping[str, Any]) -> None:
        """Take a `CLIPTokenizer` for each text encoder.

        With one encoder its last hidden states are what the network is told. With two, those before the last layer of
        both side by side, and the pooled one of the second (Podell et al. 2023, "SDXL", section 2.1).
        """
        self.tokenizers, self.encoders = tuple(tokenizers), dict(encoders)
        self.tokenizer = self.tokenizers[0]

    @property
    def device(self) -> torch.device:
        """Where they are."""
        found: torch.device = next(iter(self.encoders.values())).device
        return found

    def tables(self) -> dict[str, nn.Embedding]:
        """Each encoder's token table."""
        return {name: encoder.get_input_embeddings() for name, encoder in self.encoders.items()}

    def add_token(self, name: str, rows: TokenRows) -> int:
        """Give all of them one concept's token; returns its number.

        Raises:
            AlreadyExists: A tokenizer has this token already.
        """
        from conceptctl.diffusion.prompts import add_token

        (token_id,) = {add_token(tokenizer, name) for tokenizer in self.tokenizers}
        for encoder in self.encoders.values():
            if token_id >= encoder.get_input_embeddings().num_embeddings:
                encoder.resize_token_embeddings(token_id + 1, mean_resizing=False)
        self.set_token(token_id, rows)
        return token_id

    @torch.no_grad()
    def set_token(self, token_id: int, rows: TokenRows) -> None:
        """Replace one row of each token table."""
        for name, table in self.tables().items():
            table.weight[token_id].copy_(rows[name][0])

    @torch.no_grad()
    def token_start(self, class_word: str) -> TokenRows:
        """Where a token begins: at its class's word, or at the mean of all words without one; (1, D) each, fp32."""
        ids = self.tokenizer(class_word, add_special_tokens=False).input_ids if class_word else []
        return {
            name: (table.weight[ids] if ids else table.weight).float().mean(dim=0, keepdim=True)
            for name, table in self.tables().items()
        }

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """Prompts as the pipeline gives them to its text encoders: numbers of tokens (N, encoders, T)."""
        return torch.stack([_ids(tokenizer, prompts) for tokenizer in self.tokenizers], dim=1)

    def filled_up(self, inner: Sequence[Sequence[int]]) -> Tensor:
        """Tokens as a whole prompt, between its marks and filled up: (N, encoders, T)."""
        return torch.stack([_filled_up(tokenizer, inner) for tokenizer in self.tokenizers], dim=1)

    def encode(self, ids: Tensor) -> States:
        """What the network is told, given numbers of tokens (N, encoders, T) on their device."""
        columns = ids.unbind(dim=1)
        encoders = list(self.encoders.values())
        if len(encoders) == 1:
            hidden: Tensor = encoders[0](columns[0])[0]
            return hidden
        made = [encoder(each, output_hidden_states=True) for encoder, each in zip(encoders, columns, strict=True)]
        return PooledStates(torch.cat([each.hidden_states[-2] for each in made], dim=-1), made[-1][0])


def _ids(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    found: Tensor = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return found


def _filled_up(tokenizer: Any, inner: Sequence[Sequence[int]]) -> Tensor:
    length = tokenizer.model_max_length
    tail = [tokenizer.eos_token_id] + [tokenizer.pad_token_id] * length
    return torch.tensor([([tokenizer.bos_token_id, *each[: length - 2], *tail])[:length] for each in inner])
