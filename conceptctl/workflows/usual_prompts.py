"""What people ask for beside a concept: prompts that stand for how it may be drawn."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

AROUND = (
    ("on a beach", "in a forest", "in a city", "in the snow", "in a room", "on the grass", "on a table"),
    ("at sunset", "at night"),
)
"""Where something may be, and when."""


def known_phrases(tokenizer: Any, phrases: Sequence[str]) -> list[str]:
    """Those of some phrases whose words are one token each."""
    return [
        phrase
        for phrase in phrases
        if len(tokenizer(phrase, add_special_tokens=False).input_ids) == len(phrase.split())
    ]


def surrounded(tokenizer: Any, plain: str) -> list[str]:
    """A prompt with something around it, once for each phrase that the tokenizer knows."""
    return [f"{plain} {phrase}" for group in AROUND for phrase in known_phrases(tokenizer, group)]


def whole_words(tokenizer: Any) -> list[str]:
    """The words that the tokenizer has a token for, in order; none where it marks no ends of words."""
    entries = [entry.removesuffix("</w>") for entry in tokenizer.get_vocab() if entry.endswith("</w>")]
    return sorted(word for word in entries if len(word) > 1 and word.isascii() and word.isalpha())


def among_words(words: Sequence[str], token: str, count: int, *, seed: int = 0) -> list[str]:
    """Prompts of random words with a token among them, the same ones each time: whatever it may be asked for with."""
    chosen = random.Random(seed)
    found = []
    for index in range(count if words else 0):
        around = chosen.choices(words, k=chosen.randint(1, 8))
        if token:
            around.insert(chosen.randint(0, len(around)), token)
        found.append(("", "a ", "a photo of a ")[index % 3] + " ".join(around))
    return found


def usual(tokenizer: Any, name: str) -> list[str]:
    """Prompts that an earlier concept may be asked for in: half of them plain, half with something around it."""
    plain = f"a photo of a V*{name}"
    around = surrounded(tokenizer, plain)
    return [*around, *[plain] * max(1, len(around))]
