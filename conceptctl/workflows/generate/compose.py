"""A prompt that names concepts, as what the picture and each of its regions is drawn from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from conceptctl.diffusion.prompts import (
    in_plain_words,
    opening,
    own_words,
    surroundings,
    with_article,
    without_classes,
)
from conceptctl.store.concept import read_record
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store
from conceptctl.workflows.reference_samples import recipe_of, word_of

if TYPE_CHECKING:
    from conceptctl.diffusion.composition.guidance import GuidedPrompt
    from conceptctl.diffusion.composition.regions import Prompt


_SAYS_NOTHING = re.compile(r"(?:(?:an?\s|the\s)?(?:photo|picture|image)\sof\s)?(?:(?:an?|the|my)\s)?")
"""Articles, and the medium that everything is learned in."""


def compose(store: Store, generation: Generation, prompt: str, names: Sequence[str]) -> Prompt:
    """Find what a prompt is drawn from so that its concepts are seen, and what it says beside them.

    One concept is drawn from the prompt, in which what is said beside it counts as it does for others of its class.
    Several have a region each, in the order in which they are named: there each is drawn from what it is asked for
    by, opened as the prompt is ("an oil painting of"), with what the prompt says of it ("wearing a red cap") and where
    ("in the snow"), over a picture that is drawn from the prompt with their classes in it.

    Args:
        store: The store.
        generation: Which of its generations knows the concepts.
        prompt: What to draw.
        names: The concepts that it names.

    Raises:
        StoreDamaged: A concept's file is damaged.
    """
    from conceptctl.diffusion.composition.guidance import GuidedPrompt
    from conceptctl.diffusion.composition.regions import Composition

    known = {concept.name: concept for concept in generation.concepts}
    records = {name: read_record(store.blob(known[name], read=True)) for name in names}
    words = {name: word_of(record) for name, record in records.items()}
    recalled = {name: recipe_of(record, generation.base).prompt_for(name) for name, record in records.items()}

    def guided(text: str, name: str) -> str | GuidedPrompt:
        # What a concept is asked for by may come from a file of somebody else's, who could take away anything with it.
        with_words, without_words = in_plain_words(text, words), f"a photo of {with_article(words[name])}"
        return text if _bare(with_words) == _bare(without_words) else GuidedPrompt(text, with_words, without_words)

    if len(names) < 2:
        return guided(prompt, names[0]) if names else prompt
    bare = without_classes(prompt, words)
    opened, own, where = opening(prompt) or "a photo of", own_words(bare), surroundings(bare)
    regions = []
    for name, text in recalled.items():
        parts = (re.sub("^a photo of", lambda _: opened, text), own[name], where)
        regions.append(guided(" ".join(part for part in parts if part), name))
    return Composition(in_plain_words(prompt, words), tuple(regions))


def _bare(text: str) -> str:
    """What a text says, whatever its capitals, spaces and full stop."""
    return _SAYS_NOTHING.sub("", " ".join(text.casefold().split()).rstrip(" .,!"), count=1)
