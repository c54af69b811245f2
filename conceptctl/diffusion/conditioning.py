"""Prompts to hidden states, with a token that is being learned in the place of one row of the token table."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from conceptctl.diffusion.text_encoders import PooledStates, States, TextEncoders, cat, hidden_of

if TYPE_CHECKING:
    from conceptctl.learning.backbone import Crop

REFERENCE_PROMPTS = 256
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

    def __init__(
        self, text: TextEncoders, prompts: Sequence[str], token_ids: Sequence[int], crops: Sequence[Crop] = ()
    ) -> None:
        """Take the prompts of all examples.

        Args:
            text: The pipeline's text encoders.
            prompts: One for each example.
            token_ids: The tokens that are learned.
            crops: How each example's picture was made, which is told with pooled states; () for whole pictures.
        """
        self.text, self.token_ids = text, tuple(token_ids)
        different = list(dict.fromkeys(prompts))
        ids = text.ids(different)
        holds = self._holds(ids)
        order = holds.argsort(descending=True, stable=True)
        # Prompts with a learned token come first, so that one slice of them is encoded again.
        position = {different[index]: place for place, index in enumerate(order.tolist())}
        self.of_example = torch.tensor([position[prompt] for prompt in prompts])
        self.learned = int(holds.sum())
        self.ids = ids[order].to(text.device)
        self.sizes = sizes_of(crops).to(text.device) if crops else None
        self._kept: dict[str, States] = {}
        with torch.no_grad():
            self.fixed = text.encode(self.ids[self.learned :]) if self.learned < len(order) else None

    def _holds(self, ids: Tensor) -> Tensor:
        """Which prompts, (N,), hold a learned token."""
        return self.text.holds(ids, self.token_ids).flatten(1).any(dim=1)

    def of_examples(self, indices: Tensor) -> States:
        """The states of the prompts of some examples, given by their indices (B,) on the CPU."""
        chosen = self.of_example[indices]
        wanted, inverse = chosen.unique(return_inverse=True)
        ours = wanted[wanted < self.learned]
        theirs = wanted[wanted >= self.learned] - self.learned
        parts: list[States] = []
        if len(ours):
            parts.append(self.text.encode(self.ids[self._sent(ours)]))
        if len(theirs) and self.fixed is not None:
            parts.append(self.fixed[self._sent(theirs)])
        return self._sized(cat(parts)[self._sent(inverse)], indices)

    def of_prompt(self, prompt: str, indices: Tensor) -> States:
        """The states of one prompt in the place of those of some examples, (B,) on the CPU."""
        states = self._kept.get(prompt)
        if states is None:
            ids = self.text.ids([prompt])
            states = self.text.encode(ids.to(self.ids.device))
            # What depends on a row that is being trained is another in the next step.
            if not self._holds(ids).any():
                self._kept[prompt] = states
        return self._sized(states.expand(len(indices), -1, -1), indices)

    def _sized(self, states: States, indices: Tensor) -> States:
        """Say of what pictures a batch's states are, where the network is told."""
        if self.sizes is None or not isinstance(states, PooledStates):
            return states
        return replace(states, sizes=self.sizes[self._sent(indices)])

    def _sent(self, indices: Tensor) -> Tensor:
        # The loop does not wait for the device.
        return indices.to(self.ids.device, non_blocking=True)


def sizes_of(crops: Sequence[Crop]) -> Tensor:
    """The six numbers that SDXL is told of each picture, (N, 6), fp32, on the CPU.

    Heights before widths: the size before it was cropped, what was cut off, and the size (Podell et al. 2023, "SDXL",
    section 2.2; the third pair is that of the bucket, section 2.3).
    """
    rows = [[*reversed(each.original), *reversed(each.corner), *reversed(each.size)] for each in crops]
    return torch.tensor(rows, dtype=torch.float32)


@torch.no_grad()
def hidden_states(text: TextEncoders, texts: Sequence[str], token_ids: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
    """What the text encoders make of prompts.

    Returns:
        The states (N, T, D), fp32; and which of them (N, T), bool, are at one of the tokens or behind it.
    """
    ids = text.ids(texts)
    states = torch.cat([hidden_of(text.encode(part.to(text.device))).float() for part in ids.split(_TOGETHER)])
    behind = text.holds(ids, token_ids)[:, 0].cumsum(dim=1) > 0
    return states, behind.to(text.device)


def reference_factor(text: TextEncoders, texts: Sequence[str], *, without: Collection[int] = ()) -> Tensor:
    """The reference moment as the few directions that nearly all of it lies in.

    Args:
        text: The text encoders, with every token that was learned before.
        texts: Prompts that matter more than others.
        without: Tokens that are not drawn: those that are being learned.

    Returns:
        R of shape (D, k): R R^T is the `reference_moment` (D, D), up to the ten thousandth part of it that is left out.
    """
    return _root(reference_moment(text, texts, without=without))


@torch.no_grad()
def reference_moment(
    text: TextEncoders, texts: Sequence[str], *, without: Collection[int] = (), count: int = REFERENCE_PROMPTS
) -> Tensor:
    """What the text encoder makes of whatever may be asked for: the second moment of its states.

    Prompts of one to eight words of the vocabulary, bare or after "a" or "a photo of a", stand for whatever
    may be asked for; the empty prompt, which guidance needs, weighs an eighth of all those, and so do the given texts.

    Args:
        text: The text encoders, with every token that was learned before.
        texts: Prompts that matter more than others.
        without: Tokens that are not drawn.
        count: How many prompts of random words.

    Returns:
        The mean (D, D) of h h^T over all hidden states h, in float64.
    """
    generator = torch.Generator().manual_seed(0)
    tokenizer = text.tokenizer
    words = torch.tensor([token_id for token_id in _whole_words(tokenizer) if token_id not in without])
    before = tokenizer("a photo of a", add_special_tokens=False).input_ids
    inner: list[list[int]] = []
    for index in range(count):
        length = int(torch.randint(1, 9, (), generator=generator))
        drawn = words[torch.randint(0, len(words), (length,), generator=generator)]
        inner.append(([], before[:1], before)[index % 3] + drawn.tolist())
    inner += [tokenizer(each, add_special_tokens=False, truncation=True).input_ids for each in ("", *texts)]
    weights = torch.ones(len(inner), dtype=torch.float64)
    weights[count] = count / 8
    weights[count + 1 :] = count / 8 / max(1, len(texts))
    ids = text.filled_up(inner)
    moment: Tensor | float = 0.0
    for part, weight in zip(ids.split(_TOGETHER), weights.split(_TOGETHER), strict=True):
        hidden = hidden_of(text.encode(part.to(text.device)))
        states = hidden.double() * weight.sqrt().to(text.device)[:, None, None]
        states = states.flatten(0, 1)
        moment = moment + states.T @ states
    assert isinstance(moment, Tensor)
    mean: Tensor = moment / (weights.sum() * ids.shape[-1]).item()
    return mean


@torch.no_grad()
def with_prompts(text: TextEncoders, factor: Tensor, groups: Sequence[Sequence[str]]) -> Tensor:
    """Add the states of prompts that are to stay as they are to those of whatever may be asked for.

    However many there are, each counts as much: with a fixed sum every concept would be kept the less the more
    there are.

    Args:
        text: The text encoders, with every token that was learned before.
        factor: R of shape (D, k), from `reference_factor`.
        groups: For each concept that was learned before, prompts with it.

    Returns:
        R of shape (D, k'): R R^T is the moment of the given states and, for each group, `_KEPT` of its own prompts'.
    """
    moment = factor.double() @ factor.double().T
    for texts in groups:
        states = PromptStates(text, texts, ()).of_examples(torch.arange(len(texts)))
        own = hidden_of(states).flatten(0, 1).double()
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
