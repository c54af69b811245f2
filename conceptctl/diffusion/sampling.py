"""Draws pictures: one seed, one picture, whatever else is drawn beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from conceptctl.diffusion.models import Pipeline
from conceptctl.diffusion.regions import Composition, Prompt, prompts_of, regions

BATCH = 8
"""How many pictures `draw_set` draws together, always: its pictures depend on it."""


@torch.no_grad()
def draw(
    pipeline: Pipeline, prompt: Prompt, seeds: Sequence[int], *, steps: int, guidance: float, negative: str = ""
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
    wanted, unwanted = _states(pipeline, prompt, negative, guidance)
    for seed in seeds:
        yield from _drawn(pipeline, prompt, wanted, unwanted, [seed], steps, guidance)


@torch.no_grad()
def draw_set(
    pipeline: Pipeline, prompt: Prompt, count: int, *, steps: int, guidance: float, first: int = 0
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
    wanted, unwanted = _states(pipeline, prompt, "", guidance)
    for start in range(first, count, BATCH):
        seeds = range(start, start + BATCH)
        yield from _drawn(pipeline, prompt, wanted, unwanted, seeds, steps, guidance)[: count - start]


def _states(pipeline: Pipeline, prompt: Prompt, negative: str, guidance: float) -> tuple[Tensor, Tensor | None]:
    """Encode what is wanted, and with guidance what is not: hidden states of one length, (1, T, D)."""
    # Some bases are told how closely to follow, and draw no second picture for it.
    guided = guidance > 1 and pipeline.unet.config.time_cond_proj_dim is None
    wanted, unwanted = [], None
    for text in prompts_of(prompt):
        states, unwanted = pipeline.encode_prompt(
            text, pipeline.device, 1, guided, negative_prompt=negative if guided else None
        )
        wanted.append(states)
    # What is not wanted is so everywhere: the states behind its first ones are there for their number, and not seen.
    return torch.cat(wanted, dim=1), None if unwanted is None else unwanted.repeat(1, len(wanted), 1)


def _drawn(
    pipeline: Pipeline,
    prompt: Prompt,
    wanted: Tensor,
    unwanted: Tensor | None,
    seeds: Sequence[int],
    steps: int,
    guidance: float,
) -> list[Image.Image]:
    """Draw pictures of one prompt together."""
    count = len(seeds)
    with regions(pipeline.unet, len(prompts_of(prompt)) - 1) as shared:
        # In a batch what is not wanted comes first.
        halves = [True] * count if unwanted is None else [False] * count + [True] * count
        shared.compose(torch.tensor(halves) & isinstance(prompt, Composition))
        drawn: Any = pipeline(
            prompt_embeds=wanted.expand(count, -1, -1),
            negative_prompt_embeds=None if unwanted is None else unwanted.expand(count, -1, -1),
            num_inference_steps=steps,
            guidance_scale=guidance,
            # Noise made on the CPU is the same on every device.
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        )
    pictures: list[Image.Image] = drawn.images
    return pictures
