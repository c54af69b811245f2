"""Pictures with their prompts, made into what a training draws from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import ImageOps

from conceptctl.diffusion.examples import Examples
from conceptctl.diffusion.latents import encode

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from conceptctl.diffusion.models import Pipeline


def gather(
    pipeline: Pipeline,
    pictures: Sequence[Image.Image],
    prompts: Sequence[Sequence[str]],
    *,
    flip: bool,
    auxiliary: tuple[Tensor, str] | None,
) -> Examples:
    """Encode everything that a concept is learned from.

    Args:
        pipeline: Whose autoencoder.
        pictures: The concept's.
        prompts: Of each picture, one or more.
        flip: Whether mirrored pictures count as well.
        auxiliary: The latents of auxiliary pictures, and the prompt of all of them.
    """
    shown, of_each = list(pictures), list(prompts)
    if flip:
        shown += [ImageOps.mirror(picture) for picture in shown]
        of_each *= 2
    # Every picture counts alike, however many prompts it has.
    times = math.lcm(*map(len, of_each))
    latents = encode(pipeline, shown).repeat_interleave(times, dim=0)
    said = [prompt for own in of_each for prompt in (*own,) * (times // len(own))]
    concept = len(said)
    if auxiliary is not None:
        latents = torch.cat([latents, auxiliary[0].to(latents.device)])
        said += [auxiliary[1]] * len(auxiliary[0])
    return Examples(latents, said, concept)
