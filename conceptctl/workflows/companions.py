"""What a concept is pasted beside while it is learned: things that the base draws, and concepts learned before it.

The model draws all of them itself, so that no photograph of an earlier concept is needed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from PIL import ImageOps

from conceptctl.diffusion.prompts import MARKER, cut_off, mentioned
from conceptctl.store.concept import read_record
from conceptctl.store.manifest import Attachment, Concept, Generation
from conceptctl.store.store import Store, Writer
from conceptctl.workflows import auxiliary
from conceptctl.workflows.defaults import defaults_of
from conceptctl.workflows.recall import recipe_of

if TYPE_CHECKING:
    from PIL import Image

    from conceptctl.diffusion.models import Pipeline
    from conceptctl.diffusion.scenes import Cast
    from conceptctl.workflows.lesson import Request

WORDS = ("cat", "person", "waterfall")
"""What the base draws for it: something small, somebody, a landscape."""
PICTURES = 8
"""Of each."""
MOST = 8
"""Earlier concepts that a lesson draws."""
SCENES = 96
"""How many scenes are made of them."""


def earlier(head: Generation, seed: int) -> tuple[Concept, ...]:
    """Choose the earlier concepts that a lesson shows: other ones in every lesson, where there are more than `MOST`."""
    rng = random.Random(f"earlier:{seed}:{len(head.concepts)}")
    return tuple(rng.sample(head.concepts, min(MOST, len(head.concepts))))


def named(head: Generation, seed: int) -> tuple[str, ...]:
    """What a lesson shows a concept beside, as prompts name it."""
    return (*(f"a {word}" for word in WORDS), *(MARKER + concept.name for concept in earlier(head, seed)))


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
    seed: int,
    stage: Callable[[str, int], None],
    advance: Callable[[int], None],
) -> list[Cast]:
    """Draw concepts that were learned before, each from the prompt that it is remembered by.

    Raises:
        StoreDamaged: A concept's file is damaged.
    """
    from conceptctl.diffusion.sampling import draw_set
    from conceptctl.diffusion.scenes import Cast

    chosen = earlier(head, seed)
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


def scenes_of(
    request: Request,
    tokenizer: Any,
    pictures: Sequence[Image.Image],
    prompts: Sequence[str],
    casts: Sequence[Sequence[Cast]],
) -> list[tuple[Image.Image, str]]:
    """Paste a concept's pictures beside what the model draws.

    Args:
        request: What is learned.
        tokenizer: The base's, with the concept's token.
        pictures: The concept's.
        prompts: What each picture is learned under: one that names another concept shows more than this one.
        casts: What the model draws, in groups; there are no scenes without it.

    Returns:
        Scenes with prompts that the text encoder sees to their end: what it does not see of one would be learned under
        the name that it sees.
    """
    from conceptctl.diffusion.scenes import Cast, scenes

    own = [picture for picture, prompt in zip(pictures, prompts, strict=True) if mentioned(prompt) <= {request.name}]
    if not casts or not own:
        return []
    if request.flip:
        own += [ImageOps.mirror(picture) for picture in own]
    cast = Cast(names_of(request.name, request.class_word), own)
    made = scenes(cast, casts, SCENES, random.Random(f"scenes:{request.train.seed}"))
    return [(picture, prompt) for picture, prompt in made if not cut_off(tokenizer, prompt)]


def names_of(name: str, class_word: str) -> tuple[str, ...]:
    """How a prompt may name a concept; without its class where that is no plain text, as in somebody else's file."""
    token = MARKER + name
    plain = class_word and class_word.isprintable() and not mentioned(class_word)
    return (f"a {token}", token, *([f"{token} {class_word}"] if plain else []))
