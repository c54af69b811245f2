"""The denoiser: a U-Net on 16 x 16 x 4 latents, conditioned on the text tower's hidden states."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from conceptctl.diffusion.models import has_fast_bf16
from conceptctl.pocket.train.clip import TEXT_WIDTH
from conceptctl.pocket.train.data import Batches, to_signed, to_tensor
from conceptctl.pocket.train.loop import Losses, Recipe, Stage
from conceptctl.pocket.train.trained import text_tower, trained_clip, trained_vae
from conceptctl.pocket.train.vocabulary import LENGTH, tokenize
from conceptctl.pocket.world.captions import caption
from conceptctl.pocket.world.render import render
from conceptctl.pocket.world.scenes import PAIR_SHARE, draw_scene

RECIPES = {
    "cpu": Recipe(samples=20_000_000, batch=64, learning_rate=1.5e-3, weight_decay=0.01, warmup=100),
    "cuda": Recipe(samples=20_000_000, batch=512, learning_rate=2e-3, average=0.9995, weight_decay=0.01),
}
CORPUS = {"cpu": 150_000, "cuda": 1_000_000}
"""How many pictures are encoded once and drawn from, by device."""
CAPTIONS = 2
"""Captions of each picture."""
PAIRS = 0.5
"""The share of pictures with two subjects: the hardest to learn, so more than `world.scenes` draws on its own."""
UNCONDITIONAL = 0.1
"""The share of samples trained on the empty prompt, for classifier-free guidance."""
SNR_CAP = 5.0
"""Loss weights are min(SNR, cap) / SNR (Hang et al. 2023, "Efficient diffusion training via min-SNR weighting")."""
NOISE = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.02}
"""The noise schedule. Stable Diffusion ends at 0.012, which on 16 x 16 latents leaves the mean colour visible."""
_CHUNK = 250


class Corpus(NamedTuple):
    """Encoded pictures with their captions."""

    latents: Tensor
    """(N, 4, 16, 16), float16."""
    tokens: Tensor
    """(N, CAPTIONS, LENGTH), int16."""


class Batch(NamedTuple):
    """One step's latents, noise, times and prompts."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    tokens: Tensor


def build() -> UNet2DConditionModel:
    """Make the untrained U-Net: 1,024,000 weights in its cross-attention keys and values."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(64, 128, 256),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        # Despite its name, the number of heads of each level.
        attention_head_dim=(2, 4, 8),
        norm_num_groups=16,
    )


class UnetStage(Stage[UNet2DConditionModel, Batch]):
    """Trains the U-Net on the noise of encoded renders."""

    name = "unet"

    def __init__(self, device: torch.device, workspace: Path, *, batch: int, workers: int = 0) -> None:
        self.device, self.size = device, batch
        torch.manual_seed(0)
        # In fp32 on a CPU the plain layout is a seventh faster.
        self.layout = torch.channels_last if has_fast_bf16(device) else torch.contiguous_format
        self.network = build().to(device, memory_format=self.layout)
        if device.type == "cpu" and has_fast_bf16(device):
            # The fused attention's backward pass does not use bf16 products: it took two fifths of a step.
            self.network.set_attn_processor(AttnProcessor())
        self.scheduler = DDPMScheduler(**NOISE)
        self.alphas = self.scheduler.alphas_cumprod.to(device)
        clip, tokenizer = trained_clip(workspace)
        self.text: CLIPTextModel = text_tower(clip).to(device)
        corpus = _corpus(workspace, tokenizer, device, workers, CORPUS[device.type], "unet", PAIRS)
        self.latents, self.tokens = corpus.latents.to(device), corpus.tokens.to(device)
        self.empty = tokenize(tokenizer, [""])[0].to(device)
        heldout = _corpus(workspace, tokenizer, device, 0, 2 * _CHUNK, "unet-heldout", PAIR_SHARE)
        generator = torch.Generator().manual_seed(1)
        self.heldout = Batch(
            heldout.latents.float(),
            torch.randn(heldout.latents.shape, generator=generator),
            torch.linspace(0, 999, len(heldout.latents)).long(),
            heldout.tokens[:, 0].long(),
        )

    def batch(self, step: int) -> Batch:
        """Latents, noise, times and prompts of a step, drawn on the device."""
        generator = torch.Generator(self.device).manual_seed(step)
        draw = partial(torch.randint, generator=generator, device=self.device)
        chosen = draw(0, len(self.latents), (self.size,))
        latents = self.latents[chosen].float()
        tokens = self.tokens[chosen, draw(0, CAPTIONS, (self.size,))].long()
        drop = torch.rand(self.size, generator=generator, device=self.device) < UNCONDITIONAL
        noise = torch.randn(latents.shape, generator=generator, device=self.device)
        return Batch(
            latents, noise, draw(0, len(self.alphas), (self.size,)), torch.where(drop[:, None], self.empty, tokens)
        )

    def losses(self, batch: Batch) -> Losses:
        """The noise's squared error, weighted by min-SNR; "mse" is the plain one."""
        error = self._errors(self.network, batch)
        snr = self.alphas[batch.timesteps] / (1 - self.alphas[batch.timesteps])
        return {"loss": (error * snr.clamp(max=SNR_CAP) / snr).mean(), "mse": error.mean()}

    def measure(self, network: UNet2DConditionModel) -> dict[str, float]:
        """The plain squared error on held-out pictures, at fixed noise and times."""
        parts = zip(*(tensor.split(125) for tensor in self.heldout), strict=True)
        errors = [self._errors(network, Batch(*(item.to(self.device) for item in part))) for part in parts]
        return {"heldout": torch.cat(errors).mean().item()}

    def _errors(self, network: UNet2DConditionModel, batch: Batch) -> Tensor:
        alphas = self.alphas[batch.timesteps][:, None, None, None]
        noisy = alphas.sqrt() * batch.latents + (1 - alphas).sqrt() * batch.noise
        with torch.no_grad():
            hidden = self.text(batch.tokens).last_hidden_state
        noise_pred = network(noisy.contiguous(memory_format=self.layout), batch.timesteps, hidden).sample
        return functional.mse_loss(noise_pred.float(), batch.noise, reduction="none").mean(dim=(1, 2, 3))


def _corpus(
    workspace: Path,
    tokenizer: CLIPTokenizer,
    device: torch.device,
    workers: int,
    size: int,
    name: str,
    pairs: float,
) -> Corpus:
    path = workspace / f"{name}-corpus.safetensors"
    corpus = Corpus(**load_file(path)) if path.exists() else None
    # A recipe may ask for more than an earlier one did.
    if corpus is None or len(corpus.latents) != size:
        batches = Batches(partial(_captioned, tokenizer, name, pairs), workers)
        vae = trained_vae(workspace).to(device, memory_format=torch.channels_last)
        latents, tokens = [], []
        for index in track(range(size // _CHUNK), description=f"encoding {size:,} pictures"):
            pictures, captions = batches(index)
            with torch.no_grad():
                mode = vae.encode(to_signed(pictures, device)).latent_dist.mode()
            latents.append(mode.half().cpu().contiguous())
            tokens.append(captions)
        corpus = Corpus(torch.cat(latents), torch.cat(tokens))
        save_file(corpus._asdict(), path)
    return corpus


def _captioned(tokenizer: CLIPTokenizer, name: str, pairs: float, chunk: int) -> tuple[Tensor, Tensor]:
    rng = random.Random(f"{name}:{chunk}")
    pictures, captions = [], []
    for _ in range(_CHUNK):
        scene = draw_scene(rng, pairs=pairs)
        pictures.append(render(scene, rng))
        captions += [caption(scene, rng) for _ in range(CAPTIONS)]
    return to_tensor(pictures), tokenize(tokenizer, captions).view(_CHUNK, CAPTIONS, LENGTH).to(torch.int16)
