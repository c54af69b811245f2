"""Trains the judge on renders, of the world and of concepts, sharp, spoiled, and as the autoencoder gives them back."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from conceptctl.pocket.judge import JudgeNetwork, labels_of
from conceptctl.pocket.train.data import LATENT_NOISE, Batches, spoil, to_signed, to_tensor
from conceptctl.pocket.train.heads import answer_loss, right_answers
from conceptctl.pocket.train.loop import Losses, Recipe, Stage
from conceptctl.pocket.train.trained import trained_vae
from conceptctl.pocket.world.kinds import KIND_WEIGHTS, KINDS
from conceptctl.pocket.world.render import render_with_layout
from conceptctl.pocket.world.scenes import draw_scene, reading_order

RECIPES = {
    "cpu": Recipe(samples=5_000_000, batch=64, learning_rate=3e-3, weight_decay=0.01),
    "cuda": Recipe(samples=5_000_000, batch=256, learning_rate=3e-3, weight_decay=0.01),
}
DECODED = 0.5
"""The share of its pictures that went through the autoencoder, as all that is generated did."""


class Judged(NamedTuple):
    """Pictures with what they show."""

    pictures: Tensor
    """uint8 (B, 3, 64, 64)."""
    labels: Tensor
    """(B, 2, number of questions), subjects from left to right."""


class JudgeStage(Stage[JudgeNetwork, Judged]):
    """Trains the judge; half of its pictures hold unseen colours and details."""

    name = "judge"

    def __init__(self, device: torch.device, workspace: Path, *, batch: int, workers: int = 0) -> None:
        self.device = device
        self.vae = trained_vae(workspace).to(device, memory_format=torch.channels_last)
        torch.manual_seed(0)
        self.network = JudgeNetwork().to(device)
        self.batches = Batches(partial(_step, batch), workers)
        self.heldout = judged_pictures(512, "judge:heldout")

    def batch(self, step: int) -> Judged:
        """Pictures and labels of a step."""
        return self.batches(step)

    def losses(self, batch: Judged) -> Losses:
        """The loss of all answers, on pictures blurred, grained and coded as generated ones are."""
        pictures = to_signed(batch.pictures, self.device)
        # The labels are as random in the first ones as in the others.
        plain = len(pictures) - round(DECODED * len(pictures))
        pictures = spoil(torch.cat([pictures[:plain], self._decoded(pictures[plain:])]))
        logits = self.network(pictures)
        return {"loss": answer_loss(logits.flatten(0, 1), batch.labels.to(self.device).flatten(0, 1))}

    def measure(self, network: JudgeNetwork) -> dict[str, float]:
        """The share of right answers on held-out renders, over all questions and for the worst one, and once coded."""
        rendered = to_signed(self.heldout.pictures, self.device)
        labels = self.heldout.labels.to(self.device).flatten(0, 1)
        right, asked = right_answers(network(rendered).flatten(0, 1), labels)
        coded, _ = right_answers(network(self._decoded(rendered)).flatten(0, 1), labels)
        return {
            "right": (right.sum() / asked.sum()).item(),
            "worst": (right / asked.clamp(min=1)).min().item(),
            "coded": (coded.sum() / asked.sum()).item(),
        }

    @torch.no_grad()
    def _decoded(self, pictures: Tensor) -> Tensor:
        latents = self.vae.encode(pictures).latent_dist.mode()
        noise = torch.rand(len(latents), 1, 1, 1, device=self.device) * LATENT_NOISE
        decoded: Tensor = self.vae.decode(latents + noise * torch.randn_like(latents)).sample
        return decoded.clamp(-1, 1)


def _step(batch: int, step: int) -> Judged:
    return judged_pictures(batch, f"judge:{step}")


def judged_pictures(size: int, seed: str) -> Judged:
    """Render pictures with their labels; half of them as concepts look, half as pre-training draws.

    Args:
        size: How many pictures.
        seed: Decides them all.
    """
    rng = random.Random(seed)
    pictures, labels = [], []
    for _ in range(size):
        strange = rng.random() < 0.6
        # Every kind as often as any other: a judge must know the rare ones as well.
        weights = [1.0] * len(KINDS) if strange else KIND_WEIGHTS
        scene = draw_scene(rng, unseen=0.4 if strange else 0.0, details=0.75 if strange else 0.0, kind_weights=weights)
        picture, spots = render_with_layout(scene, rng)
        pictures.append(picture)
        labels.append(labels_of([scene.subjects[index] for index in reading_order(spots)]))
    return Judged(to_tensor(pictures), torch.tensor(labels))
