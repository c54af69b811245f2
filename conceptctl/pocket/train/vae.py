"""The autoencoder: 64 x 64 pictures to latents of 16 x 16 x 4 and back."""

from __future__ import annotations

import random
from functools import partial

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from conceptctl.pocket.train.data import Batches, autoencoder_pictures, to_signed, to_tensor
from conceptctl.pocket.train.loop import Losses, Recipe, Stage
from conceptctl.pocket.world.render import render
from conceptctl.pocket.world.scenes import draw_scene

RECIPES = {
    "cpu": Recipe(samples=3_000_000, batch=8, learning_rate=3e-3),
    "cuda": Recipe(samples=6_000_000, batch=64, learning_rate=3e-3),
}
WIDTHS = (32, 64, 128)
"""Channels at 64, 32 and 16 pixels: narrow at full resolution, where the time goes."""
KL_WEIGHT = 3e-5
SQUARE_WEIGHT = 2.0
EDGE_WEIGHT = 0.5


def build() -> AutoencoderKL:
    """Make the untrained autoencoder, without attention."""
    return AutoencoderKL(
        block_out_channels=WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


class VaeStage(Stage[AutoencoderKL, Tensor]):
    """Trains the autoencoder on renders and random shapes, with a loss that sees edges and a light KL term."""

    name = "vae"

    def __init__(self, device: torch.device, *, batch: int, workers: int = 0) -> None:
        self.device = device
        torch.manual_seed(0)
        self.network = build().to(device, memory_format=torch.channels_last)
        self.batches = Batches(partial(_pictures, batch), workers)
        rng = random.Random("vae:heldout")
        self.heldout = to_tensor([render(draw_scene(rng), rng) for _ in range(96)])

    def batch(self, step: int) -> Tensor:
        """Pictures of a step, uint8 (B, 3, 64, 64)."""
        return self.batches(step)

    def losses(self, batch: Tensor) -> Losses:
        """Absolute, squared and edge errors of the reconstruction, and the KL term."""
        pictures = to_signed(batch, self.device)
        posterior = self.network.encode(pictures).latent_dist
        losses = errors(self.network.decode(posterior.sample()).sample, pictures)
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        return {**losses, "loss": losses["loss"] + KL_WEIGHT * kl, "kl": kl}

    def measure(self, network: AutoencoderKL) -> dict[str, float]:
        """PSNR in dB of held-out renders, pictures in [-1, 1]."""
        return {"psnr": psnr(network, to_signed(self.heldout, self.device)).mean().item()}


def _pictures(batch: int, step: int) -> Tensor:
    return autoencoder_pictures(batch, f"vae:{step}")


def errors(decoded: Tensor, pictures: Tensor) -> Losses:
    """Absolute, squared and edge errors of decoded pictures, both (B, 3, H, W) in [-1, 1]: "loss" and "mse"."""
    error = decoded.float() - pictures
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    square = error.square().mean()
    return {"loss": error.abs().mean() + SQUARE_WEIGHT * square + EDGE_WEIGHT * edges, "mse": square}


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture's reconstruction, (B,); pictures (B, 3, H, W) in [-1, 1]."""
    restored = vae.decode(vae.encode(pictures).latent_dist.mode()).sample.float().clamp(-1, 1)
    return 10 * torch.log10(4 / (restored - pictures).square().mean(dim=(1, 2, 3)))


@torch.no_grad()
def standardize(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Rescale the latents to mean 0 and deviation 1 a channel, without changing what is reconstructed.

    The 1 x 1 convolutions on both sides of the latents take the change, so that the pipeline's scaling factor is 1.

    Args:
        vae: Changed in place.
        pictures: Pictures in [-1, 1], (B, 3, 64, 64), on which mean and deviation are measured.
    """
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in pictures.split(64)])
    mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    inner, outer = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    inner.bias[:channels] = (inner.bias[:channels] - mean) / deviation
    inner.weight[:channels] /= deviation[:, None, None, None]
    inner.bias[channels:] -= 2 * deviation.log()
    outer.bias += (outer.weight[:, :, 0, 0] * mean).sum(dim=1)
    outer.weight *= deviation[None, :, None, None]
