"""The decoder alone: latents stay what they are, and a U-Net that was trained on them remains valid."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from conceptctl.pocket.train.data import LATENT_NOISE, Batches, autoencoder_pictures, to_signed, to_tensor
from conceptctl.pocket.train.loop import Losses, Recipe, Stage
from conceptctl.pocket.train.trained import trained_vae
from conceptctl.pocket.train.vae import errors, psnr
from conceptctl.pocket.world.concepts import concept
from conceptctl.pocket.world.kinds import KINDS

RECIPES = {
    "cpu": Recipe(samples=1_000_000, batch=8, learning_rate=1.5e-3, warmup=100),
    "cuda": Recipe(samples=4_000_000, batch=64, learning_rate=1.5e-3, warmup=100),
}
HELDOUT_SEEDS = range(8_000, 8_012)
"""Of the concepts that it is measured on, of each kind."""


class DecoderStage(Stage[AutoencoderKL, Tensor]):
    """Trains the decoder; half of the latents are as inexact as generated ones are."""

    name = "decoder"

    def __init__(self, device: torch.device, workspace: Path, *, batch: int, workers: int = 0) -> None:
        self.device = device
        self.network = trained_vae(workspace).to(device, memory_format=torch.channels_last)
        for part in (self.network.post_quant_conv, self.network.decoder):
            part.requires_grad_(True)
        self.batches = Batches(partial(_pictures, batch), workers)
        rng = random.Random("decoder:heldout")
        views = [concept(kind, seed).heldout_view(rng.randrange(99)) for seed in HELDOUT_SEEDS for kind in KINDS]
        self.heldout = to_tensor(views)

    def batch(self, step: int) -> Tensor:
        """Pictures of a step, uint8 (B, 3, 64, 64)."""
        return self.batches(step)

    def losses(self, batch: Tensor) -> Losses:
        """The reconstruction's errors."""
        pictures = to_signed(batch, self.device)
        with torch.no_grad():
            latents = self.network.encode(pictures).latent_dist.sample()
            noise = torch.rand(len(latents), 1, 1, 1, device=self.device).mul(2).sub(1).clamp(min=0) * LATENT_NOISE
            latents += noise * torch.randn_like(latents)
        return errors(self.network.decode(latents).sample, pictures)

    def measure(self, network: AutoencoderKL) -> dict[str, float]:
        """PSNR in dB of concepts, whose details training never draws, pictures in [-1, 1]."""
        return {"unseen psnr": psnr(network, to_signed(self.heldout, self.device)).mean().item()}


def _pictures(batch: int, step: int) -> Tensor:
    return autoencoder_pictures(batch, f"decoder:{step}")
