"""What a concept is pasted beside while it is learned: things that the base draws."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from PIL import ImageOps

from conceptctl.diffusion.prompts import cut_off, mentioned, with_article
from conceptctl.diffusion.regions import prompts_of
from conceptctl.store.manifest import Attachment
from conceptctl.store.store import Writer
from conceptctl.workflows import auxiliary

if TYPE_CHECKING:
    from conceptctl.diffusion.models import Pipeline
    from conceptctl.diffusion.scenes import Cast, Portrait, Scene
    from conceptctl.workflows.lesson import Request

WORDS = ("cat", "person", "waterfall")
"""What the base draws for it: something small, somebody, a landscape."""
PICTURES = 8
"""Of each."""
SCENES = 96
"""How many scenes are made of them."""


def drawn(
    writer: Writer,
    pipeline: Pipeline,
    attachments: tuple[Attachment, ...],
    stage: Callable[[str, int], None],
    advance: Callable[[int], None],
) -> tuple[list[Cast], tuple[Attachment, ...]]:
    """Draw each of `WORDS`, or take what the store has of it; see `auxiliary.latents`."""
    from conceptctl.diffusion.latents import decode
    from conceptctl.diffusion.scenes import Cast, Portrait

    casts = []
    for word in WORDS:
        latents, attachments = auxiliary.latents(
            writer, pipeline, word, PICTURES, attachments, stage, advance, what=f"{word} pictures to paste beside"
        )
        portraits = [Portrait(picture, auxiliary.prompt_of(word)) for picture in decode(pipeline, latents)]
        casts.append(Cast(with_article(word), portraits))
    return casts, attachments


def scenes_of(request: Request, tokenizer: Any, portraits: Sequence[Portrait], others: Sequence[Cast]) -> list[Scene]:
    """Paste a concept's pictures beside what the base draws.

    Args:
        request: What is learned.
        tokenizer: The base's, with the concept's token.
        portraits: The concept's pictures: one whose prompt names another concept shows more than this one.
        others: What the base draws; there are no scenes without it.

    Returns:
        Scenes with prompts that the text encoder sees to their end.
    """
    from conceptctl.diffusion.scenes import Cast, scenes

    own = [portrait for portrait in portraits if mentioned(portrait.prompt) <= {request.name}]
    if not others or not own:
        return []
    if request.flip:
        own += [replace(portrait, picture=ImageOps.mirror(portrait.picture)) for portrait in own]
    cast = Cast(with_article(request.class_word), own)
    made = scenes(cast, others, SCENES, random.Random(f"scenes:{request.train.seed}"))
    return [scene for scene in made if not any(cut_off(tokenizer, text) for text in prompts_of(scene.prompt))]
