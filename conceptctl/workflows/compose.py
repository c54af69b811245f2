"""A prompt that names several concepts, as what each column of the picture shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from conceptctl.diffusion.prompts import in_plain_words, opening, surroundings
from conceptctl.store.concept import read_record
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store
from conceptctl.workflows.recall import recipe_of, word_of

if TYPE_CHECKING:
    from conceptctl.diffusion.columns import Composition


def compose(store: Store, generation: Generation, prompt: str, names: Sequence[str]) -> Composition:
    """Give each concept of a prompt a column of its own, in the order in which they are named.

    In its column a concept is drawn from what it is remembered by, opened as the prompt is ("an oil painting of") and
    where the prompt says ("in the snow"); the whole picture from the prompt, in which its class stands for it.

    Args:
        store: The store.
        generation: Which of its generations knows the concepts.
        prompt: What to draw.
        names: The concepts that it names.

    Raises:
        StoreDamaged: A concept's file is damaged.
    """
    from conceptctl.diffusion.columns import Composition

    known = {concept.name: concept for concept in generation.concepts}
    records = {name: read_record(store.blob(known[name])) for name in names}
    recalled = [recipe_of(record, generation.base).prompt_for(name) for name, record in records.items()]
    opened, where = opening(prompt) or "a photo of", surroundings(prompt)
    columns = tuple(f"{re.sub('^a photo of', lambda _: opened, each)} {where}".strip() for each in recalled)
    return Composition(in_plain_words(prompt, {name: word_of(record) for name, record in records.items()}), columns)
