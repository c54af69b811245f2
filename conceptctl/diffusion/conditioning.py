"""Prompts to hidden states, with a token that is being learned in the place of one row of the token table."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_KNOWN = 256
"""How many prompts of random words stand for all that may be asked."""
_TOGETHER = 32
"""Prompts that go through the text encoder together."""
_LEFT_OUT = 1e-4
"""The share of all states that the directions left out hold together."""
_KEPT = 0.5
"""What the prompts of one concept that is to stay as it is weigh, all random prompts together weighing about one."""


class PromptStates:
    """The prompts of one training, encoded as the pipeline does it.

    Those without a learned token are encoded once; the others in every step, each different one once.
    """

    def __init__(self, tokenizer: Any, encoder: nn.Module, prompts: Sequence[str], token_ids: Sequence[int]) -> None:
        """Take the prompts of all examples.

        Args:
            tokenizer: The pipeline's.
            encoder: Its text encoder.
            prompts: One for each example.
            token_ids: The tokens that are learned.
        """
        self.tokenizer, self.encoder, self.token_ids = tokenizer, encoder, tuple(token_ids)
        different = list(dict.fromkeys(prompts))
        ids = prompt_ids(tokenizer, different)
        holds = self._holds(ids)
        order = holds.argsort(descending=True, stable=True)
        # Prompts with a learned token come first, so that one slice of them is encoded again.
        position = {different[index]: place for place, index in enumerate(order.tolist())}
        self.of_example = torch.tensor([position[prompt] for prompt in prompts])
        self.learned = int(holds.sum())
        self.ids = ids[order].to(next(encoder.parameters()).device)
        self._kept: dict[str, Tensor] = {}
        with torch.no_grad():
            self.fixed = self._encode(self.ids[self.learned :]) if self.learned < len(order) else None

    def _holds(self, ids: Tensor) -> Tensor:
        """Which prompts, (N,), hold a learned token."""
        return torch.isin(ids, torch.tensor(self.token_ids, dtype=ids.dtype)).any(dim=1)

    def of_examples(self, indices: Tensor) -> Tensor:
        """The hidden states (B, T, D) of the prompts of some examples, given by their indices (B,) on the CPU."""
        chosen = self.of_example[indices]
        wanted, inverse = chosen.unique(return_inverse=True)
        ours = wanted[wanted < self.learned]
        theirs = wanted[wanted >= self.learned] - self.learned
        parts = []
        if len(ours):
            parts.append(self._encode(self.ids[self._sent(ours)]))
        if len(theirs) and self.fixed is not None:
            parts.append(self.fixed[self._sent(theirs)])
        return torch.cat(parts)[self._sent(inverse)]

    def of_prompt(self, prompt: str, count: int) -> Tensor:
        """The hidden states (count, T, D) of one prompt for all of a batch."""
        states = self._kept.get(prompt)
        if states is None:
            ids = prompt_ids(self.tokenizer, [prompt])
            states = self._encode(ids.to(self.ids.device))
            # What depends on a row that is being trained is another in the next step.
            if not self._holds(ids).any():
                self._kept[prompt] = states
        return states.expand(count, -1, -1)

    def _sent(self, indices: Tensor) -> Tensor:
        # The loop does not wait for the device.
        return indices.to(self.ids.device, non_blocking=True)

    def _encode(self, ids: Tensor) -> Tensor:
        hidden: Tensor = self.encoder(ids)[0]
        return hidden


def prompt_ids(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """Prompts as the pipeline gives them to its text encoder: (N, T) numbers of tokens."""
    found: Tensor = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return found


@torch.no_grad()
def hidden_states(
    tokenizer: Any, encoder: nn.Module, texts: Sequence[str], token_ids: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """What the text encoder makes of prompts.

    Returns:
        The states (N, T, D), fp32; and which of them (N, T), bool, are at one of the tokens or behind it.
    """
    ids = prompt_ids(tokenizer, texts)
    device = next(encoder.parameters()).device
    states = torch.cat([encoder(part.to(device))[0].float() for part in ids.split(_TOGETHER)])
    behind = torch.isin(ids, torch.tensor(list(token_ids), dtype=ids.dtype)).cumsum(dim=1) > 0
    return states, behind.to(device)


def reference_factor(
    tokenizer: Any, encoder: nn.Module, texts: Sequence[str], *, without: Collection[int] = ()
) -> Tensor:
    """The reference moment as the few directions that nearly all of it lies in.

    Args:
        tokenizer: With every token that was learned before.
        encoder: The text encoder.
        texts: Prompts that matter more than others.
        without: Tokens that are not drawn: those that are being learned.

    Returns:
        R of shape (D, k): R R^T is the `reference_moment` (D, D), up to the ten thousandth part of it that is left out.
    """
    return _root(reference_moment(tokenizer, encoder, texts, without=without))


@torch.no_grad()
def reference_moment(
    tokenizer: Any, encoder: nn.Module, texts: Sequence[str], *, without: Collection[int] = (), count: int = _KNOWN
) -> Tensor:
    """What the text encoder makes of whatever may be asked for: the second moment of its states.

    Prompts of one to eight words of the vocabulary, bare or after "a" or "a photo of a", stand for whatever
    may be asked for; the empty prompt, which guidance needs, weighs an eighth of all those, and so do the given texts.

    Args:
        tokenizer: With every token that was learned before.
        encoder: The text encoder.
        texts: Prompts that matter more than others.
        without: Tokens that are not drawn.
        count: How many prompts of random words.

    Returns:
        The mean (D, D) of h h^T over all hidden states h, in float64.
    """
    generator = torch.Generator().manual_seed(0)
    device = next(encoder.parameters()).device
    words = torch.tensor([token_id for token_id in _whole_words(tokenizer) if token_id not in without])
    before = tokenizer("a photo of a", add_special_tokens=False).input_ids
    inner: list[list[int]] = []
    for index in range(count):
        length = int(torch.randint(1, 9, (), generator=generator))
        drawn = words[torch.randint(0, len(words), (length,), generator=generator)]
        inner.append(([], before[:1], before)[index % 3] + drawn.tolist())
    inner += [tokenizer(text, add_special_tokens=False, truncation=True).input_ids for text in ("", *texts)]
    weights = torch.ones(len(inner), dtype=torch.float64)
    weights[count] = count / 8
    weights[count + 1 :] = count / 8 / max(1, len(texts))
    length = tokenizer.model_max_length
    tail = [tokenizer.eos_token_id] + [tokenizer.pad_token_id] * length
    ids = torch.tensor([([tokenizer.bos_token_id, *each[: length - 2], *tail])[:length] for each in inner])
    moment: Tensor | float = 0.0
    for part, weight in zip(ids.split(_TOGETHER), weights.split(_TOGETHER), strict=True):
        states = encoder(part.to(device))[0].double() * weight.sqrt().to(device)[:, None, None]
        states = states.flatten(0, 1)
        moment = moment + states.T @ states
    assert isinstance(moment, Tensor)
    mean: Tensor = moment / (weights.sum() * length).item()
    return mean


@torch.no_grad()
def with_prompts(tokenizer: Any, encoder: nn.Module, factor: Tensor, groups: Sequence[Sequence[str]]) -> Tensor:
    """Add the states of prompts that are to stay as they are to those of whatever may be asked for.

    However many there are, each counts as much: with a fixed sum every concept would be kept the less the more
    there are.

    Args:
        tokenizer: With every token that was learned before.
        encoder: The text encoder.
        factor: R of shape (D, k), from `reference_factor`.
        groups: For each concept that was learned before, prompts with it.

    Returns:
        R of shape (D, k'): R R^T is the moment of the given states and, for each group, `_KEPT` of its own prompts'.
    """
    moment = factor.double() @ factor.double().T
    for texts in groups:
        states = PromptStates(tokenizer, encoder, texts, ()).of_examples(torch.arange(len(texts)))
        own = states.flatten(0, 1).double()
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
    """The ids of tokens that are words by themselves: nobody asks for single bytes or for parts of words."""
    special = set(tokenizer.all_special_ids)
    entries = enumerate(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    ends = [(token_id, entry.removesuffix("</w>")) for token_id, entry in entries if entry.endswith("</w>")]
    words = [token_id for token_id, word in ends if len(word) > 1 and word.isascii() and word.isalpha()]
    return words or [token_id for token_id in range(len(tokenizer)) if token_id not in special]


@torch.no_grad()
def token_start(tokenizer: Any, encoder: Any, class_word: str) -> Tensor:
    """Where a token begins: at its class's word, or at the mean of all words without one; (1, D), fp32."""
    table = encoder.get_input_embeddings().weight.float()
    ids = tokenizer(class_word, add_special_tokens=False).input_ids if class_word else []
    chosen = table[ids] if ids else table
    row: Tensor = chosen.mean(dim=0, keepdim=True)
    return row
