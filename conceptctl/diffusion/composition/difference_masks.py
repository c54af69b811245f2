"""Where in a picture what it was drawn from is seen.

A prompt and an empty one predict different noise where the picture shows what the prompt names, and hardly elsewhere
(Couairon et al. 2022, "DiffEdit: Diffusion-based semantic image editing with mask guidance", section 3.2, step 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch.nn import functional

from conceptctl.diffusion.latents import encode
from conceptctl.diffusion.models import Pipeline
from conceptctl.diffusion.networks import Network, both
from conceptctl.diffusion.text_encoders import States

_TIMES = (0.2, 0.3, 0.4)
"""When the two are compared, as shares of the schedule's times: with less noise the picture says it all by itself, with
more it is not seen."""
_NOISES = 2
"""How many noises at each of them."""
_LARGEST = 0.98
"""The share of places whose difference is at most the one that the others are measured by."""
_LEAST = 1e-3
"""What that one is taken to be at the least, where the noise has a deviation of 1: what is less is rounding."""
_INSIDE = 0.2
"""The share of that difference at which the mask's edge is."""
_EDGE = 0.1
"""Over how much of it the edge goes from 0 to 1."""


@torch.no_grad()
def difference_masks(
    pipeline: Pipeline, pictures: Sequence[Image.Image], wanted: States, empty: States
) -> list[Image.Image]:
    """Find what was wanted in pictures.

    Args:
        pipeline: Whose networks; its scheduler has the noise schedule of the training.
        pictures: RGB, of the pipeline's size.
        wanted: What was told of the prompt that they were drawn from, of one sample.
        empty: What is told of an empty prompt, of one sample.

    Returns:
        For each picture one of the same size in gray: white where it is seen, black elsewhere.
    """
    latents = encode(pipeline, pictures)
    states = both(wanted, empty, len(latents))
    network = Network(pipeline)
    from diffusers import DDPMScheduler

    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    # The same for every picture, so that none depends on the others.
    generator = torch.Generator().manual_seed(0)
    differences = []
    for share in _TIMES:
        time = torch.tensor([int(share * schedule.config.num_train_timesteps)], device=latents.device)
        for _ in range(_NOISES):
            noise = torch.randn(latents.shape[1:], generator=generator).to(latents.device).expand_as(latents)
            noisy = schedule.add_noise(latents, noise, time).to(states.dtype)
            with_it, without = network(torch.cat([noisy] * 2), time, states).sample.float().chunk(2)
            differences.append((with_it - without).square().mean(dim=1).sqrt())
    found = torch.stack(differences).mean(dim=0)
    largest = found.flatten(1).quantile(_LARGEST, dim=1).clamp(min=_LEAST)[:, None, None]
    width, height = pictures[0].size
    large = functional.interpolate((found / largest)[:, None], (height, width), mode="bicubic")[:, 0]
    inside = ((large - _INSIDE) / _EDGE + 0.5).clamp(0, 1)
    return [Image.fromarray(each) for each in (255 * inside).round().byte().cpu().numpy()]
