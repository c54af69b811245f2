"""Trains the judge on renders, of the world and of concepts, sharp, spoiled, and as the autoencoder gives them back."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from conceptctl.pocket.judge import JudgeNetwork, labels_of
from conceptctl.pocket.train.data import LATENT_NOISE, Batches, spoil, to_signed, to_tensor
from conceptctl.pocket.train.heads import answer_loss, right_answers
from conceptctl.pocket.train.loop import Losses, Recipe, Stage
from conceptctl.pocket.train.trained import trained_vae
from conceptctl.pocket.world.kinds import KIND_WEIGHTS, KINDS, NONE, Subject, attributes_of, draw_subject
from conceptctl.pocket.world.labels import UNKNOWN
from conceptctl.pocket.world.render import render_with_layout
from conceptctl.pocket.world.scenes import Scene, draw_scene, reading_order

RECIPES = {
    "cpu": Recipe(samples=5_000_000, batch=64, learning_rate=3e-3, weight_decay=0.01),
    "cuda": Recipe(samples=5_000_000, batch=256, learning_rate=3e-3, weight_decay=0.01),
}
DECODED = 0.5
"""The share of its pictures that went through the autoencoder, as all that is generated did."""
BETWEEN = 0.4
"""The share of its pictures that lie between two that differ in one attribute, as some that are generated do."""
THERE, MOSTLY = 0.35, 0.65
"""How much of something has to be left to be there, and how much of one thing to be it rather than another."""
LITTLE = (NONE, "plain")
"""What there is where something is not."""
LEAKED = 0.3
"""The share of hats among these that have the colour of the hair, which no hat of the world need have."""
_PATCHES = 8


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
    return judged_pictures(batch, f"judge:{step}", between=BETWEEN)


def judged_pictures(size: int, seed: str, *, between: float = 0.0) -> Judged:
    """Render pictures with their labels; half of them as concepts look, half as pre-training draws.

    Args:
        size: How many pictures.
        seed: Decides them all.
        between: The share of them that show something of another subject, in which one attribute is different.
    """
    rng = random.Random(seed)
    pictures, labels = [], []
    for _ in range(size):
        strange = rng.random() < 0.6
        # Every kind as often as any other: a judge must know the rare ones as well.
        weights = [1.0] * len(KINDS) if strange else KIND_WEIGHTS
        scene = draw_scene(rng, unseen=0.4 if strange else 0.0, details=0.75 if strange else 0.0, kind_weights=weights)
        picture, answers = _between(scene, rng) if between and rng.random() < between else _judged(scene, rng)
        pictures.append(picture)
        labels.append(answers)
    return Judged(to_tensor(pictures), torch.tensor(labels))


def _judged(scene: Scene, rng: random.Random) -> tuple[Image.Image, list[list[int]]]:
    picture, spots = render_with_layout(scene, rng)
    return picture, labels_of([scene.subjects[index] for index in reading_order(spots)])


def _between(scene: Scene, rng: random.Random) -> tuple[Image.Image, list[list[int]]]:
    """Render what lies between a scene and one that differs in an attribute: a few dots of many, half a hat.

    A denoiser that has not made up its mind draws such things, and those who look at them see them none the less. What
    is neither the one nor the other has no answer.
    """
    which = rng.randrange(len(scene.subjects))
    subject = scene.subjects[which]
    if subject.attributes.get("hat", NONE) != NONE and rng.random() < LEAKED:
        subject = subject.replaced(hat_colour=subject["hair_colour"])
    name, other = _changed(subject, rng)
    subjects = [subject, other] if other[name] not in LITTLE else [other, subject]
    state = rng.getstate()
    rendered = []
    for each in subjects:
        # From the same state both stand in the same place in the same light.
        rng.setstate(state)
        changed = (*scene.subjects[:which], each, *scene.subjects[which + 1 :])
        rendered.append(_judged(Scene(changed, scene.place, scene.light, scene.relation), rng))
    (without, absent), (with_it, present) = rendered
    share = rng.random()
    if rng.random() < 0.5:
        mask = Image.new("L", with_it.size, round(255 * share))
    else:
        # Here and there the one, elsewhere the other.
        mask = Image.new("L", (_PATCHES, _PATCHES))
        mask.putdata([255 * (rng.random() < share) for _ in range(_PATCHES**2)])
        mask = mask.resize(with_it.size, Image.Resampling.BILINEAR)
    enough, little = (THERE, 0.1) if subjects[0][name] in LITTLE else (MOSTLY, 1 - MOSTLY)
    answers = present if share >= enough else absent
    if little < share < enough:
        answers = [
            [one if one == two else UNKNOWN for one, two in zip(*both, strict=True)]
            for both in zip(absent, present, strict=True)
        ]
    return Image.composite(with_it, without, mask), answers


def _changed(subject: Subject, rng: random.Random) -> tuple[str, Subject]:
    """The same subject with another value of one of the attributes that can be seen of it, and the attribute's name."""
    while True:
        fresh = draw_subject(rng, subject.kind, unseen=0.4, details=0.75)
        shown = fresh.shown()
        if names := [name for name in subject.shown() if shown.get(name, subject[name]) != subject[name]]:
            name = rng.choice(names)
            needy = [each.name for each in attributes_of(subject.kind) if name in each.needs]
            return name, subject.replaced(**{each: fresh[each] for each in (name, *needy)})
