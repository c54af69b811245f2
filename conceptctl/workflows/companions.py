"""What a concept is pasted beside while it is learned: things that the base draws, and concepts learned before it.

The model draws all of them itself, so that no photograph of an earlier concept is needed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from conceptctl.diffusion.prompts import MARKER
from conceptctl.store.concept import read_record
from conceptctl.store.manifest import Attachment, Generation
from conceptctl.store.store import Store, Writer
from conceptctl.workflows import auxiliary
from conceptctl.workflows.defaults import defaults_of
from conceptctl.workflows.recall import recipe_of

if TYPE_CHECKING:
    from conceptctl.diffusion.models import Pipeline
    from conceptctl.diffusion.scenes import Cast

WORDS = ("cat", "person", "waterfall")
"""What the base draws for it: something small, somebody, a landscape."""
PICTURES = 8
"""Of each."""
MOST = 8
"""Earlier concepts that a lesson draws; any of them, where there are more."""
SCENES = 96
"""How many scenes are made of them."""


def known(head: Generation) -> tuple[str, ...]:
    """What a concept could be put beside, as prompts name it."""
    return (*(f"a {word}" for word in WORDS), *(MARKER + concept.name for concept in head.concepts))


def drawn_by_base(
    writer: Writer,
    pipeline: Pipeline,
    attachments: tuple[Attachment, ...],
    stage: Callable[[str, int], None],
    advance: Callable[[int], None],
) -> tuple[list[Cast], tuple[Attachment, ...]]:
    """Draw each of `WORDS`, or take what the store has of it; see `auxiliary.latents`."""
    from conceptctl.diffusion.latents import decode
    from conceptctl.diffusion.scenes import Cast

    casts = []
    for word in WORDS:
        latents, attachments = auxiliary.latents(
            writer, pipeline, word, PICTURES, attachments, stage, advance, what=f"{word} pictures to paste beside"
        )
        casts.append(Cast((f"a {word}",), decode(pipeline, latents)))
    return casts, attachments


def drawn_by_model(
    store: Store,
    head: Generation,
    pipeline: Pipeline,
    rng: random.Random,
    stage: Callable[[str, int], None],
    advance: Callable[[int], None],
) -> list[Cast]:
    """Draw concepts that were learned before, each as it is remembered.

    Raises:
        StoreDamaged: A concept's file is damaged.
    """
    from conceptctl.diffusion.sampling import draw_set
    from conceptctl.diffusion.scenes import Cast

    chosen = rng.sample(head.concepts, min(MOST, len(head.concepts)))
    if chosen:
        stage("drawing earlier concepts to paste beside", PICTURES * len(chosen))
    defaults = defaults_of(head.base)
    casts = []
    for concept in chosen:
        record = read_record(store.blob(concept))
        prompt = recipe_of(record, head.base).prompt_for(concept.name)
        pictures = []
        for picture in draw_set(pipeline, prompt, PICTURES, steps=defaults.steps, guidance=defaults.guidance):
            pictures.append(picture)
            advance(1)
        casts.append(Cast(names_of(concept.name, record.class_word), pictures))
    return casts


def names_of(name: str, class_word: str) -> tuple[str, ...]:
    """How a prompt may name a concept."""
    token = MARKER + name
    return (f"a {token}", token, *([f"{token} {class_word}"] if class_word else []))
