"""Trains the judge on renders, of the world and of concepts, sharp and slightly spoiled."""

from __future__ import annotations

import random
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from conceptctl.pocket.judge import JudgeNetwork, labels_of
from conceptctl.pocket.train.data import Batches, spoil, to_signed, to_tensor
from conceptctl.pocket.train.heads import answer_loss, right_answers
from conceptctl.pocket.train.loop import Losses, Recipe, Stage
from conceptctl.pocket.world.kinds import KIND_WEIGHTS, KINDS
from conceptctl.pocket.world.render import render_with_layout
from conceptctl.pocket.world.scenes import draw_scene, reading_order

RECIPES = {
    "cpu": Recipe(samples=5_000_000, batch=64, learning_rate=3e-3, weight_decay=0.01),
    "cuda": Recipe(samples=5_000_000, batch=256, learning_rate=3e-3, weight_decay=0.01),
}


class Judged(NamedTuple):
    """Pictures with what they show."""

    pictures: Tensor
    """uint8 (B, 3, 64, 64)."""
    labels: Tensor
    """(B, 2, number of questions), subjects from left to right."""


class JudgeStage(Stage[JudgeNetwork, Judged]):
    """Trains the judge; half of its pictures hold unseen colours and details."""

    name = "judge"

    def __init__(self, device: torch.device, *, batch: int, workers: int = 0) -> None:
        self.device = device
        torch.manual_seed(0)
        self.network = JudgeNetwork().to(device)
        self.batches = Batches(partial(_step, batch), workers)
        self.heldout = judged_pictures(512, "judge:heldout")

    def batch(self, step: int) -> Judged:
        """Pictures and labels of a step."""
        return self.batches(step)

    def losses(self, batch: Judged) -> Losses:
        """The loss of all answers, on pictures blurred and grained as generated ones are."""
        pictures = spoil(to_signed(batch.pictures, self.device))
        logits = self.network(pictures)
        return {"loss": answer_loss(logits.flatten(0, 1), batch.labels.to(self.device).flatten(0, 1))}

    def measure(self, network: JudgeNetwork) -> dict[str, float]:
        """The share of right answers on held-out renders, over all questions and for the worst one."""
        logits = network(to_signed(self.heldout.pictures, self.device))
        right, asked = right_answers(logits.flatten(0, 1), self.heldout.labels.to(self.device).flatten(0, 1))
        return {"right": (right.sum() / asked.sum()).item(), "worst": (right / asked.clamp(min=1)).min().item()}


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
