"""What is around a concept in its pictures, said in words, so that it is not learned as part of the concept."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from conceptctl.workflows.usual_prompts import AROUND, known_phrases

if TYPE_CHECKING:
    from PIL import Image

    from conceptctl.metrics.features import FeatureExtractor

LIKELIER = 3.5
"""By how much CLIP must find a picture more likely with a phrase than without, in nats: 33 times. On the bundled base's
world 84 to 90 % of 240 pictures each of people, waterfalls, cats and mugs are then described right."""


def surroundings(extractor: FeatureExtractor, tokenizer: Any, pictures: Sequence[Image.Image], word: str) -> list[str]:
    """Say what is around the subject of each picture, as far as CLIP sees it (Radford et al. 2021, section 3.1).

    Args:
        extractor: The CLIP model.
        tokenizer: The base's; it is told nothing in words that it spells in pieces.
        pictures: Any pictures.
        word: What they show: the concept's class.

    Returns:
        For each picture a phrase such as "on a beach at night"; empty where there is nothing to say.
    """
    groups = [("", *known_phrases(tokenizer, group)) for group in AROUND]
    said = [tuple(filter(None, each)) for each in itertools.product(*groups)]
    texts = extractor.texts([" ".join((f"a photo of a {word}", *each)) for each in said])
    likely = extractor.scale * extractor.images(pictures) @ texts.T
    # A phrase more must be worth it each time.
    likely -= LIKELIER * torch.tensor([len(each) for each in said])
    return [" ".join(said[index]) for index in likely.argmax(dim=1).tolist()]


def described(plain: str, around: str) -> list[str]:
    """The prompts that a picture is learned under: alone, and with what is around the concept.

    Args:
        plain: The method's prompt, "a photo of a V*alice".
        around: From `surroundings`.
    """
    bare = plain.removeprefix("a photo of a ")
    full = [f"{each} {around}".strip() for each in (plain, plain, bare)]
    return [plain, *full]


def summary(around: Sequence[str]) -> str:
    """Say what was said of how many pictures."""
    counted = Counter(around).most_common()
    return "described by what is around: " + ", ".join(f"{count} {phrase or 'as it is'}" for phrase, count in counted)
