"""Prompts to hidden states, with a token that is being learned in the place of one row of the token table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from conceptctl.diffusion.models import Pipeline

_KNOWN = 256
"""How many prompts of random words stand for all that may be asked."""
_LEFT_OUT = 1e-4
"""The share of all states that the directions left out hold together."""
_KEPT = 0.5
"""What the prompts of one concept that is to stay as it is weigh, all random prompts together weighing about one."""


class Prompts:
    """The prompts of one training, encoded as the pipeline does it.

    Those without the token are encoded once; the others in every step, each different one once.
    """

    def __init__(self, pipeline: Pipeline, prompts: Sequence[str], number: int) -> None:
        """Take the prompts of all examples.

        Args:
            pipeline: Whose tokenizer and text encoder.
            prompts: One for each example.
            number: The token's number.
        """
        tokenizer, self.encoder = pipeline.tokenizer, pipeline.text_encoder
        different = list(dict.fromkeys(prompts))
        numbers = tokenizer(
            different,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        holds = (numbers == number).any(dim=1)
        order = holds.argsort(descending=True, stable=True)
        # Prompts with the token come first, so that one slice of them is encoded again.
        place = {different[index]: position for position, index in enumerate(order.tolist())}
        self.of_example = torch.tensor([place[prompt] for prompt in prompts])
        self.learned = int(holds.sum())
        self.numbers = numbers[order].to(pipeline.device)
        with torch.no_grad():
            self.fixed = self._encode(self.numbers[self.learned :]) if self.learned < len(order) else None

    def hidden(self, examples: Tensor) -> Tensor:
        """The hidden states (B, T, D) of the prompts of some examples, given by their indices (B,) on the CPU."""
        chosen = self.of_example[examples]
        wanted, inverse = chosen.unique(return_inverse=True)
        ours = wanted[wanted < self.learned]
        theirs = wanted[wanted >= self.learned] - self.learned
        parts = []
        if len(ours):
            parts.append(self._encode(self.numbers[self._sent(ours)]))
        if len(theirs) and self.fixed is not None:
            parts.append(self.fixed[self._sent(theirs)])
        return torch.cat(parts)[self._sent(inverse)]

    def _sent(self, indices: Tensor) -> Tensor:
        # The loop does not wait for the device.
        return indices.to(self.numbers.device, non_blocking=True)

    def _encode(self, numbers: Tensor) -> Tensor:
        hidden: Tensor = self.encoder(numbers)[0]
        return hidden


class Slot:
    """Where the learned row stands in for the table's."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.row: Tensor | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Replace the row in what the token table gives."""
        if self.row is None:
            return output
        return torch.where((inputs[0] == self.number)[..., None], self.row.to(output.dtype), output)


@contextmanager
def learned_row(pipeline: Pipeline, number: int) -> Iterator[Slot]:
    """Let a tensor of its own stand in for one row of the token table, so that no other row can ever move.

    Training the table itself and masking its gradient leaves every other row to weight decay and to the optimizer's
    rounding.
    """
    slot = Slot(number)
    handle = pipeline.text_encoder.get_input_embeddings().register_forward_hook(slot)
    try:
        yield slot
    finally:
        handle.remove()


@torch.no_grad()
def known_states(pipeline: Pipeline, texts: Sequence[str], *, without: int | None = None) -> Tensor:
    """What the text encoder makes of prompts, as the few directions that nearly all of it lies in.

    Prompts of one to eight words of the vocabulary, bare or after "a" or "a photo of a", stand for whatever
    may be asked for; the empty prompt, which guidance needs, and each of the given texts weigh an eighth of all those.

    Args:
        pipeline: With every token that was learned before.
        texts: Prompts that matter more than others.
        without: The number of a token that is not drawn: the one that is being learned.

    Returns:
        R of shape (D, k): R R^T is the second moment of all hidden states (D, D), up to the ten thousandth part of it
        that is left out.
    """
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
    generator = torch.Generator().manual_seed(0)
    words = torch.tensor([number for number in _whole_words(tokenizer) if number != without])
    before = tokenizer("a photo of a", add_special_tokens=False).input_ids
    inner: list[list[int]] = []
    for index in range(_KNOWN):
        count = int(torch.randint(1, 9, (), generator=generator))
        drawn = words[torch.randint(0, len(words), (count,), generator=generator)]
        inner.append(([], before[:1], before)[index % 3] + drawn.tolist())
    inner += [tokenizer(text, add_special_tokens=False, truncation=True).input_ids for text in ("", *texts)]
    weights = torch.ones(len(inner), dtype=torch.float64)
    weights[_KNOWN:] = _KNOWN / 8
    length = tokenizer.model_max_length
    tail = [tokenizer.eos_token_id] + [tokenizer.pad_token_id] * length
    numbers = torch.tensor([([tokenizer.bos_token_id, *each[: length - 2], *tail])[:length] for each in inner])
    moment: Tensor | float = 0.0
    for part, weight in zip(numbers.split(32), weights.split(32), strict=True):
        states = encoder(part.to(encoder.device))[0].double() * weight.sqrt().to(encoder.device)[:, None, None]
        states = states.flatten(0, 1)
        moment = moment + states.T @ states
    assert isinstance(moment, Tensor)
    return _root(moment / (weights.sum() * length).item())


@torch.no_grad()
def with_kept(pipeline: Pipeline, states: Tensor, concepts: Sequence[Sequence[str]]) -> Tensor:
    """Add the states of prompts that are to stay as they are to those of whatever may be asked for.

    However many there are, each counts as much: with a fixed sum every concept would be kept the less the more
    there are.

    Args:
        pipeline: With every token that was learned before.
        states: R of shape (D, k), from `known_states`.
        concepts: For each concept that was learned before, prompts with it.

    Returns:
        R of shape (D, k'): R R^T is the moment of the given states and, for each concept, `_KEPT` of its own prompts'.
    """
    moment = states.double() @ states.double().T
    for texts in concepts:
        own = Prompts(pipeline, texts, number=-1).hidden(torch.arange(len(texts))).flatten(0, 1).double()
        moment = moment + _KEPT * own.T @ own / len(own)
    return _root(moment)


def _root(moment: Tensor) -> Tensor:
    """R of shape (D, k) with R R^T a moment (D, D), but for the directions that nearly nothing lies in."""
    values, directions = torch.linalg.eigh(moment)
    # Smallest first.
    kept = values.cumsum(0) > _LEFT_OUT * values.sum()
    root: Tensor = directions[:, kept] * values[kept].sqrt()
    return root.float()


def _whole_words(tokenizer: Any) -> list[int]:
    """The numbers of tokens that are words by themselves: nobody asks for single bytes or for parts of words."""
    special = set(tokenizer.all_special_ids)
    entries = enumerate(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    ends = [(number, entry.removesuffix("</w>")) for number, entry in entries if entry.endswith("</w>")]
    words = [number for number, word in ends if len(word) > 1 and word.isascii() and word.isalpha()]
    return words or [number for number in range(len(tokenizer)) if number not in special]


@torch.no_grad()
def starting_row(pipeline: Pipeline, class_word: str) -> Tensor:
    """Where a token begins: at its class's word, or at the mean of all words without one; (1, D), fp32."""
    table = pipeline.text_encoder.get_input_embeddings().weight.float()
    numbers = pipeline.tokenizer(class_word, add_special_tokens=False).input_ids if class_word else []
    chosen = table[numbers] if numbers else table
    row: Tensor = chosen.mean(dim=0, keepdim=True)
    return row
