"""Pictures with their prompts, made into what a training draws from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import ImageOps

from conceptctl.diffusion.examples import Examples
from conceptctl.diffusion.latents import encode
from conceptctl.diffusion.scenes import learned_from

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from conceptctl.diffusion.models import Pipeline
    from conceptctl.diffusion.regions import Prompt
    from conceptctl.diffusion.scenes import Scene


def gather(
    pipeline: Pipeline,
    pictures: Sequence[Image.Image],
    prompts: Sequence[Sequence[str]],
    *,
    flip: bool,
    auxiliary: tuple[Tensor, str] | None,
    scenes: Sequence[Scene],
) -> Examples:
    """Encode everything that a concept is learned from.

    Args:
        pipeline: Whose autoencoder.
        pictures: The concept's.
        prompts: Of each picture, one or more.
        flip: Whether mirrored pictures count as well.
        auxiliary: The latents of auxiliary pictures, and the prompt of all of them.
        scenes: Pictures of the concept beside something else.
    """
    shown, of_each = list(pictures), list(prompts)
    if flip:
        shown += [ImageOps.mirror(picture) for picture in shown]
        of_each *= 2
    # Every picture counts alike, however many prompts it has.
    times = math.lcm(*map(len, of_each))
    latents = [encode(pipeline, shown).repeat_interleave(times, dim=0)]
    said: list[Prompt] = [prompt for own in of_each for prompt in (*own,) * (times // len(own))]
    concept = len(said)
    if auxiliary is not None:
        latents.append(auxiliary[0].to(latents[0].device))
        said += [auxiliary[1]] * len(auxiliary[0])
    if not scenes:
        return Examples(torch.cat(latents), said, concept)
    latents.append(encode(pipeline, [scene.picture for scene in scenes]))
    said += [scene.prompt for scene in scenes]
    height, width = latents[0].shape[2:]
    seen = torch.stack([learned_from(height, width, scene.column) for scene in scenes])
    return Examples(torch.cat(latents), said, concept, len(scenes), seen.to(latents[0].device))
