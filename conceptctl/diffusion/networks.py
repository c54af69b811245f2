"""What differs between pipelines with one text encoder and with two: how prompts are encoded, what a U-Net is told."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from conceptctl.diffusion.models import Pipeline
from conceptctl.diffusion.text_encoders import PooledStates, States, TextEncoders, cat


def text_encoders_of(pipeline: Pipeline) -> TextEncoders:
    """A pipeline's text encoders, and their tokenizers, in order."""
    names = [name for name in ("text_encoder", "text_encoder_2") if getattr(pipeline, name, None) is not None]
    tokenizers = [getattr(pipeline, name.replace("text_encoder", "tokenizer")) for name in names]
    return TextEncoders(tokenizers, {name: getattr(pipeline, name) for name in names})


@torch.no_grad()
def encode_prompt(pipeline: Pipeline, text: str) -> States:
    """What a pipeline's U-Net is told of a prompt, for one sample."""
    encoders = text_encoders_of(pipeline)
    return encoders.encode(encoders.ids([text]).to(encoders.device))


def unwanted(pipeline: Pipeline, negative: str, wanted: States) -> States:
    """What is told of what is not wanted; SDXL was trained with zeros in the place of an empty prompt."""
    if not negative and isinstance(wanted, PooledStates) and pipeline.config.force_zeros_for_empty_prompt:
        return PooledStates(torch.zeros_like(wanted.hidden), torch.zeros_like(wanted.pooled))
    return encode_prompt(pipeline, negative)


def pipeline_arguments(wanted: States, not_wanted: States | None, count: int) -> dict[str, Tensor | None]:
    """What a pipeline is given to draw so many pictures."""
    found: dict[str, Tensor | None] = {}
    for name, states in (("prompt_embeds", wanted), ("negative_prompt_embeds", not_wanted)):
        many = None if states is None else states.expand(count, -1, -1)
        if isinstance(many, PooledStates):
            found |= {name: many.hidden, name.replace("prompt", "pooled_prompt"): many.pooled}
        else:
            found[name] = many
    return found


def unet_arguments(states: States, sizes: Tensor | None) -> dict[str, Any]:
    """What a U-Net is given beside samples and times.

    Args:
        states: Of a batch (B, T, D).
        sizes: Of SDXL: the pictures' sizes and cropping (B, 6).
    """
    if not isinstance(states, PooledStates):
        return {"encoder_hidden_states": states}
    return {
        "encoder_hidden_states": states.hidden,
        "added_cond_kwargs": {"text_embeds": states.pooled, "time_ids": sizes},
    }


def whole_sizes(pipeline: Pipeline, latents: Tensor) -> Tensor:
    """The six numbers that SDXL is told of whole pictures, (B, 6): their size, nothing cut off, and their size.

    Those of pictures that were cropped stand with their states; see `conditioning.sizes_of`.
    """
    height, width = (side * pipeline.vae_scale_factor for side in latents.shape[-2:])
    row = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=latents.device)
    return row.expand(len(latents), -1)


class Network:
    """A pipeline's U-Net, called with noisy latents, timesteps and states."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    def __call__(self, latents: Tensor, timesteps: Tensor, states: States) -> Any:
        """Predict; what is returned has a `sample` (B, C, H, W)."""
        sizes = states.sizes if isinstance(states, PooledStates) else None
        if sizes is None and isinstance(states, PooledStates):
            sizes = whole_sizes(self.pipeline, latents)
        return self.pipeline.unet(latents, timesteps, **unet_arguments(states, sizes))


def both(first: States, second: States, count: int) -> States:
    """Two prompts' states for so many samples each, behind one another."""
    return cat([each.expand(count, -1, -1) for each in (first, second)])
