"""Draws pictures: one seed, one picture, whatever else is drawn beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image

from conceptctl.diffusion.models import Pipeline

BATCH = 8
"""How many pictures `draw_set` draws together, always: its pictures depend on it."""


@torch.no_grad()
def draw(
    pipeline: Pipeline, prompt: str, seeds: Sequence[int], *, steps: int, guidance: float, negative: str = ""
) -> Iterator[Image.Image]:
    """Draw a picture for each seed.

    Each is drawn alone: in batches of different sizes the same seed gives slightly different numbers, and a picture
    that somebody liked could not be had again.

    Args:
        pipeline: A Stable Diffusion pipeline.
        prompt: What to draw.
        seeds: The seeds, one a picture.
        steps: Denoising steps.
        guidance: Scale of classifier-free guidance; 1 or less is none.
        negative: What not to draw.

    Yields:
        The pictures, in the order of the seeds.
    """
    guided = guidance > 1
    wanted, unwanted = pipeline.encode_prompt(
        prompt, pipeline.device, 1, guided, negative_prompt=negative if guided else None
    )
    for seed in seeds:
        # Noise made on the CPU is the same on every device.
        generator = torch.Generator().manual_seed(seed)
        drawn: Any = pipeline(
            prompt_embeds=wanted,
            negative_prompt_embeds=unwanted,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generator,
        )
        yield drawn.images[0]


@torch.no_grad()
def draw_set(
    pipeline: Pipeline, prompt: str, count: int, *, steps: int, guidance: float, first: int = 0
) -> Iterator[Image.Image]:
    """Draw a fixed set of pictures of one prompt, faster than one by one: seeds 0 to count - 1 in batches of 8.

    Every batch is a whole one, so that the set's first pictures do not depend on how many are asked for. What metrics
    compare is drawn with this, and nothing is that a user looks for by its seed.

    Args:
        pipeline: A Stable Diffusion pipeline.
        prompt: What to draw.
        count: How many pictures.
        steps: Denoising steps.
        guidance: Scale of classifier-free guidance; 1 or less is none.
        first: Where to begin: a whole number of batches.

    Yields:
        The pictures, in the order of their seeds.
    """
    wanted, unwanted = pipeline.encode_prompt(prompt, pipeline.device, 1, guidance > 1)
    for start in range(first, count, BATCH):
        drawn: Any = pipeline(
            prompt_embeds=wanted.expand(BATCH, -1, -1),
            negative_prompt_embeds=None if unwanted is None else unwanted.expand(BATCH, -1, -1),
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(start + index) for index in range(BATCH)],
        )
        yield from drawn.images[: count - start]
