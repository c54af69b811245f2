"""Pictures to latents: encoded once and held in memory, from which they never reach a disk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from conceptctl.diffusion.models import Pipeline

TOGETHER = 4
"""How many pictures are encoded together."""


@torch.no_grad()
def encode(pipeline: Pipeline, pictures: Sequence[Image.Image]) -> Tensor:
    """Encode pictures of one size.

    Args:
        pipeline: Whose autoencoder.
        pictures: RGB.

    Returns:
        Scaled latents (N, C, H, W), fp32, on the pipeline's device: the mode of each posterior.
    """
    vae = pipeline.vae
    parts = []
    for start in range(0, len(pictures), TOGETHER):
        pixels = np.stack([np.asarray(picture) for picture in pictures[start : start + TOGETHER]])
        # In the plain layout: another one gives slightly different numbers, in training too.
        signed = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div(127.5).sub(1)
        parts.append(vae.encode(signed.to(vae.device, vae.dtype)).latent_dist.mode().float())
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    scaled: Tensor = ((torch.cat(parts) - shift) * vae.config.scaling_factor).contiguous()
    return scaled
