"""The text encoders of a pipeline as one: one for Stable Diffusion 1 and 2, two beside each other for SDXL.

A token is known by its number in the first tokenizer. Others may have another vocabulary, in which it has another
number; what they fill prompts up with differs too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
        sizes: What SDXL is told of each picture, (B, 6), see `conditioning.sizes_of`; None for whole pictures.
    """

    hidden: Tensor
    pooled: Tensor
    sizes: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The type of the hidden states."""
        return self.hidden.dtype

    def __getitem__(self, index: Any) -> PooledStates:
        return PooledStates(self.hidden[index], self.pooled[index], None if self.sizes is None else self.sizes[index])

    def __len__(self) -> int:
        return len(self.hidden)

    def expand(self, count: int, *sizes: int) -> PooledStates:
        """One prompt's for so many samples; the other sizes are those of the hidden states."""
        return PooledStates(self.hidden.expand(count, *sizes), self.pooled.expand(count, -1))

    def split(self, portion: int) -> tuple[PooledStates, ...]:
        """Portions of the batch."""
        return tuple(self[start : start + portion] for start in range(0, len(self), portion))


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
        self._numbers: dict[int, dict[str, int]] = {}

    @property
    def device(self) -> torch.device:
        """Where they are."""
        found: torch.device = next(iter(self.encoders.values())).device
        return found

    def tables(self) -> dict[str, nn.Embedding]:
        """Each encoder's token table."""
        return {name: encoder.get_input_embeddings() for name, encoder in self.encoders.items()}

    def add_token(self, name: str, rows: TokenRows) -> int:
        """Give all of them one concept's token; returns its number in the first.

        Raises:
            AlreadyExists: A tokenizer has this token already.
        """
        from conceptctl.diffusion.prompts import add_token

        added = [add_token(tokenizer, name) for tokenizer in self.tokenizers]
        numbers = dict(zip(self.encoders, added, strict=True))
        for encoder, number in numbers.items():
            if number >= self.encoders[encoder].get_input_embeddings().num_embeddings:
                self.encoders[encoder].resize_token_embeddings(number + 1, mean_resizing=False)
        self._numbers[added[0]] = numbers
        self.set_token(added[0], rows)
        return added[0]

    def token_numbers(self, token_ids: Iterable[int]) -> dict[str, tuple[int, ...]]:
        """The rows of some tokens in each token table; one that was not added here has one number in all."""
        rows = [self._numbers_of(token_id) for token_id in token_ids]
        return {name: tuple(each[name] for each in rows) for name in self.encoders}

    def _numbers_of(self, token_id: int) -> dict[str, int]:
        return self._numbers.get(token_id) or dict.fromkeys(self.encoders, token_id)

    def holds(self, ids: Tensor, token_ids: Iterable[int]) -> Tensor:
        """Where in numbers of tokens (N, encoders, T) some tokens stand; of the same shape, bool."""
        numbers = self.token_numbers(token_ids).values()
        columns = zip(ids.unbind(dim=1), numbers, strict=True)
        return torch.stack([torch.isin(each, torch.tensor(own, dtype=ids.dtype)) for each, own in columns], dim=1)

    @torch.no_grad()
    def set_token(self, token_id: int, rows: TokenRows) -> None:
        """Replace one row of each token table."""
        for name, table in self.tables().items():
            table.weight[self._numbers_of(token_id)[name]].copy_(rows[name][0])

    @torch.no_grad()
    def token_start(self, class_word: str) -> TokenRows:
        """Where a token begins: at its class's word, or at the mean of all words without one; (1, D) each, fp32."""
        found = {}
        for tokenizer, (name, table) in zip(self.tokenizers, self.tables().items(), strict=True):
            ids = tokenizer(class_word, add_special_tokens=False).input_ids if class_word else []
            found[name] = (table.weight[ids] if ids else table.weight).float().mean(dim=0, keepdim=True)
        return found

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
