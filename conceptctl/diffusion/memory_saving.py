"""Drawing on little GPU memory: text encoders leave the device once prompts are encoded, pictures are decoded in parts.

Slicing decodes a batch one by one. Tiling decodes what is larger than `TILE` in overlapping tiles, whose edges are
blended: there the light may differ slightly from a picture that is decoded at once.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from conceptctl.diffusion.models import Pipeline

TILE = 512
"""Pixels of a tile's side: Stable Diffusion 1.x decodes its own pictures at once."""
_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


@contextmanager
def text_encoders_on_device(pipeline: Pipeline) -> Iterator[None]:
    """Have a pipeline's text encoders beside its network as long as the context lasts, and on the CPU afterwards."""
    network = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    device = network.device
    encoders = [encoder for name in _ENCODERS if (encoder := getattr(pipeline, name, None)) is not None]
    for encoder in encoders:
        encoder.to(device)
    yield
    if device.type != "cpu":
        for encoder in encoders:
            encoder.to("cpu")
        torch.cuda.empty_cache()


def for_little_memory(pipeline: Pipeline) -> Pipeline:
    """A pipeline with the same networks but the text encoders, which draws from states and decodes in parts."""
    other = copy.copy(pipeline)
    for name in _ENCODERS:
        if getattr(pipeline, name, None) is not None:
            setattr(other, name, None)
    vae: Any = pipeline.vae
    vae.enable_slicing()
    vae.enable_tiling()
    vae.tile_sample_min_size = TILE
    vae.tile_latent_min_size = TILE // pipeline.vae_scale_factor
    return other
