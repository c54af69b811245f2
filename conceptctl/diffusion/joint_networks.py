"""Networks with joint attention, called alike: with latents, times from 0 to 1, and states of prompts.

Each knows what its pipeline in diffusers is given to draw, and whether that guides by a second prediction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from conceptctl.diffusion.text_encoders import PooledStates
from conceptctl.errors import UsageError

if TYPE_CHECKING:
    from conceptctl.diffusion.models import Pipeline
    from conceptctl.diffusion.text_encoders import States


class JointNetwork:
    """A pipeline's transformer that takes latents as they are, and cuts them into patches itself."""

    guided: ClassVar[bool] = True
    """Whether the pipeline guides by what it predicts for another prompt (classifier-free guidance)."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    @property
    def patch(self) -> int:
        """The side of a token, in latents."""
        side: int = self.pipeline.transformer.config.patch_size
        return side

    @property
    def side(self) -> int:
        """The side of the pictures that it draws, in pixels."""
        side: int = self.pipeline.transformer.config.sample_size * self.pipeline.vae_scale_factor
        return side

    def __call__(self, latents: Tensor, times: Tensor, states: States) -> Tensor:
        """Predict the velocity (B, C, H, W) of latents at times (B,) from 0 to 1."""
        assert isinstance(states, PooledStates)
        predicted: Tensor = self.pipeline.transformer(
            hidden_states=latents,
            timestep=1000 * times,
            encoder_hidden_states=states.hidden,
            pooled_projections=states.pooled,
            return_dict=False,
        )[0]
        return predicted

    def check_size(self, size: tuple[int, int]) -> None:
        """Make sure that the network has places for all patches of a picture of a width and height in pixels.

        Raises:
            UsageError: It has not.
        """
        most = self.pipeline.transformer.config.pos_embed_max_size * self.patch * self.pipeline.vae_scale_factor
        if max(size) > most:
            raise UsageError(
                f"this base takes pictures of at most {most} pixels a side, not of {max(size)}",
                hint="a lower --resolution or --size",
            )


class PackedNetwork(JointNetwork):
    """A pipeline's transformer that takes patches of 2 x 2 latents, and may be told how closely to follow a prompt."""

    guided = False
    guidance: ClassVar[float] = 3.5
    """What a network that is told how closely to follow is told while it trains: what diffusers' own training script
    and its pipeline have by default. Such a network was distilled from guided predictions, and knows no others."""

    @property
    def patch(self) -> int:
        """The side of a token, in latents."""
        return 2

    @property
    def side(self) -> int:
        """The side of the pictures that it draws, in pixels: its autoencoder says it."""
        side: int = self.pipeline.vae.config.sample_size
        return side

    def __call__(self, latents: Tensor, times: Tensor, states: States) -> Tensor:
        """Predict the velocity (B, C, H, W) of latents at times (B,) from 0 to 1."""
        assert isinstance(states, PooledStates)
        transformer, dtype = self.pipeline.transformer, latents.dtype
        told = transformer.config.guidance_embeds
        count, _, height, width = latents.shape
        rows = torch.zeros(height // 2, width // 2, 3, device=latents.device, dtype=dtype)
        rows[..., 1] += torch.arange(height // 2, device=latents.device)[:, None]
        rows[..., 2] += torch.arange(width // 2, device=latents.device)[None, :]
        predicted: Tensor = transformer(
            hidden_states=packed(latents),
            timestep=times,
            guidance=torch.full((count,), self.guidance, device=latents.device) if told else None,
            pooled_projections=states.pooled,
            encoder_hidden_states=states.hidden,
            txt_ids=torch.zeros(states.hidden.shape[1], 3, device=latents.device, dtype=dtype),
            img_ids=rows.flatten(0, 1),
            return_dict=False,
        )[0]
        return unpacked(predicted, height, width)

    def check_size(self, size: tuple[int, int]) -> None:
        """Any will do: places of patches are computed."""


def packed(latents: Tensor) -> Tensor:
    """Patches of 2 x 2 latents (B, C, H, W) as tokens (B, H/2 * W/2, 4 C)."""
    count, channels, height, width = latents.shape
    patches = latents.reshape(count, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(count, height * width // 4, 4 * channels)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """The reverse of `packed`."""
    count, _, channels = tokens.shape
    patches = tokens.reshape(count, height // 2, width // 2, channels // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(count, channels // 4, height, width)


def told_of(states: PooledStates, count: int, prefix: str = "") -> dict[str, Any]:
    """What a pipeline is given of a prompt to draw so many pictures; `prefix` is "negative_" for what is not wanted."""
    many = states.expand(count, -1, -1)
    return {f"{prefix}prompt_embeds": many.hidden, f"{prefix}pooled_prompt_embeds": many.pooled}
