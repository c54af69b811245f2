"""Trains the judge on renders, of the world and of concepts, sharp, spoiled, and as the autoencoder gives them back."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageChops, ImageStat
from torch import Tensor

from conceptctl.pocket.judge import JudgeNetwork, labels_of
from conceptctl.pocket.train.data import LATENT_NOISE, Batches, spoil, to_signed, to_tensor
from conceptctl.pocket.train.heads import answer_loss, right_answers
from conceptctl.pocket.train.loop import Losses, Recipe, Stage
from conceptctl.pocket.train.trained import trained_vae
from conceptctl.pocket.world.kinds import (
    COLOURS,
    KIND_WEIGHTS,
    KINDS,
    NONE,
    PAINT,
    UNSEEN_PAINT,
    Subject,
    attributes_of,
    details_show,
    draw_subject,
)
from conceptctl.pocket.world.labels import HEADS, UNKNOWN, Head
from conceptctl.pocket.world.render import render_with_layout
from conceptctl.pocket.world.scenes import Scene, draw_scene, reading_order

RECIPES = {
    "cpu": Recipe(samples=5_000_000, batch=64, learning_rate=3e-3, weight_decay=0.01),
    "cuda": Recipe(samples=5_000_000, batch=256, learning_rate=3e-3, weight_decay=0.01),
}
DECODED = 0.5
"""The share of its pictures that went through the autoencoder, as all that is generated did."""
BETWEEN = 0.5
"""The share of its pictures that lie between two of the same scene that differ in one attribute of a subject, as some
that are generated do."""
_LITTLE = (NONE, "plain", "bald")
"""What there is where something is not."""
_LEAKED = 0.3
"""The share of hats that get a colour that leaked: that of the hair, or one that no hat has, which has no answer."""
_NO_HATS = tuple(name for name in COLOURS if name not in (*PAINT, *UNSEEN_PAINT))
"""Colours of hair and skin."""
_STRANGE_WEIGHTS = tuple({"person": 3.0, "waterfall": 1.5}.get(kind, 1.0) for kind in KINDS)
"""How often each kind is drawn as concepts look: the rare ones must be known as well, and of people there is most to
read."""
_GONE, _SOME, _THERE, _WHOLE = 0.1, 0.25, 0.35, 0.85
"""How much of something may be left when it is not there; how much must be when it is, in pieces that are as plain as
ever, and paler everywhere; and how much when its colour shows."""
_FAINT = {"beard": (0.25, 0.5)}
"""How much of something paler everywhere may be left, and must be, where it takes more to be seen: a third of a beard
is a shade of the face."""
_MOSTLY = 0.65
"""How much of one thing must be there for it to be that and no other."""
_FACE = dict.fromkeys(("skin", "beard", "glasses", "hat"), 3.0)
"""How many times as often as the others these are what differs: of generated people they are what is drawn in part most
often, and looks most like something else then. A chin in another skin is no beard."""
_PATCHES = 8
"""Of a picture's side: as large as what is there here and not elsewhere."""
_SEEN = 2000
"""The smallest change that anybody sees, in brightness of 255 times pixels: some eight pixels wholly."""


class Judged(NamedTuple):
    """Pictures with what they show."""

    pictures: Tensor
    """uint8 (B, 3, 64, 64)."""
    labels: Tensor
    """(B, 2, number of questions), subjects from left to right."""


class JudgeStage(Stage[JudgeNetwork, Judged]):
    """Trains the judge; three in five of its pictures hold unseen colours and details."""

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
    """Render pictures with their labels; three in five as concepts look, the others as pre-training draws.

    Args:
        size: How many pictures.
        seed: Decides them all.
        between: The share of them that lie between two of the same scene that differ in one attribute of a subject;
            if there are any, the colours of some hats have leaked as well.
    """
    rng = random.Random(seed)
    pictures, labels = [], []
    for _ in range(size):
        strange = rng.random() < 0.6
        weights = _STRANGE_WEIGHTS if strange else KIND_WEIGHTS
        unseen, details = (0.4, 0.75) if strange else (0.0, 0.0)
        scene = draw_scene(rng, unseen=unseen, details=details, kind_weights=weights)
        if between:
            scene = replace(scene, subjects=tuple(_leaked(subject, rng) for subject in scene.subjects))
        if rng.random() < between:
            picture, answers = _between(scene, rng, unseen, details)
        else:
            picture, answers = _judged(scene, rng)
        pictures.append(picture)
        labels.append(answers)
    return Judged(to_tensor(pictures), torch.tensor(labels))


def _judged(scene: Scene, rng: random.Random) -> tuple[Image.Image, list[list[int]]]:
    picture, spots = render_with_layout(scene, rng)
    return picture, labels_of([scene.subjects[index] for index in reading_order(spots)])


def _leaked(subject: Subject, rng: random.Random) -> Subject:
    """The same subject, some of whose hats have a colour of hair or skin, as some that are generated do."""
    if subject.attributes.get("hat", NONE) == NONE or rng.random() >= _LEAKED:
        return subject
    return subject.replaced(hat_colour=rng.choice((subject["hair_colour"], rng.choice(_NO_HATS))))


def _between(scene: Scene, rng: random.Random, unseen: float, details: float) -> tuple[Image.Image, list[list[int]]]:
    """Render what lies between a scene and one that differs in an attribute: a few dots of many, half a hat.

    A denoiser that has not made up its mind draws such things, and those who look at them see them none the less. What
    is neither the one nor the other has no answer.
    """
    which = rng.randrange(len(scene.subjects))
    one = scene.subjects[which]
    name, other = _changed(one, rng, unseen, details)
    if _little(other, name):
        one, other = other, one
    state = rng.getstate()
    rendered = []
    for subject in (one, other):
        # From the same state both stand in the same place in the same light.
        rng.setstate(state)
        subjects = (*scene.subjects[:which], subject, *scene.subjects[which + 1 :])
        rendered.append(_judged(replace(scene, subjects=subjects), rng))
    (before, absent), (after, present) = rendered
    # Between two colours lies a third, which may have a name: of these there is the one here and the other there.
    evenly = rng.random() < 0.4 and name != "skin" and not name.endswith("colour")
    if evenly:
        mask = Image.new("L", after.size, round(255 * rng.random()))
    else:
        # A dark chin below a light brow might be a beard.
        far = name == "skin" and {one[name], other[name]} == {"light", "dark"}
        mask = rng.choice((_patches, _patches if far else _slope))(before, after, rng)
    share = _share(before, after, mask)
    thing = _little(one, name)
    low, high = 1 - _MOSTLY, _MOSTLY
    if thing:
        low, high = _FAINT.get(name, (_GONE, _THERE)) if evenly else (_GONE, _SOME)
    # What is faint is there, but has no colour yet, nor does a piece of a hat cover all hair.
    needy = {*_needing(other.kind, name), "hair"} - {name} if thing and share < _WHOLE else set()

    def answer(head: Head, first: int, second: int) -> int:
        if first == second or share <= low:
            return first
        return second if share >= high and head.name not in needy else UNKNOWN

    answers = [[answer(*each) for each in zip(HEADS, *rows, strict=True)] for rows in zip(absent, present, strict=True)]
    return Image.composite(after, before, mask), answers


def _little(subject: Subject, name: str) -> bool:
    """Whether there is nothing to see of an attribute, of hair that a hat covers for one."""
    return subject[name] in _LITTLE or name not in subject.shown()


def _patches(before: Image.Image, _: Image.Image, rng: random.Random) -> Image.Image:
    """A mask that is here the one and there the other."""
    chance = rng.random()
    mask = Image.new("L", (_PATCHES, _PATCHES))
    mask.putdata([255 * (rng.random() < chance) for _ in range(_PATCHES**2)])
    return mask.resize(before.size, Image.Resampling.BILINEAR)


def _slope(before: Image.Image, after: Image.Image, rng: random.Random) -> Image.Image:
    """A mask that goes over from the one to the other along a line, somewhere in what differs."""
    mask = Image.new("L", before.size)
    if box := ImageChops.difference(before, after).getbbox():
        wide, high = box[2] - box[0], box[3] - box[1]
        slope = Image.linear_gradient("L").rotate(rng.uniform(0, 360), Image.Resampling.BILINEAR)
        # What is left of a square that was turned about its middle whichever way.
        slope = slope.crop((38, 38, 218, 218)).resize((wide, high), Image.Resampling.BILINEAR)
        middle, steep = rng.uniform(60, 196), rng.choice((1, 3, 10))
        line = [round(min(max((value - middle) * steep + 128, 0), 255)) for value in range(256)]
        mask.paste(slope.point(line), box[:2])
    return mask


def _share(before: Image.Image, after: Image.Image, mask: Image.Image) -> float:
    """How much of what makes the second picture another than the first a mask lets through; NaN, where nothing does."""
    changed = ImageChops.difference(before, after).convert("L")
    whole = ImageStat.Stat(changed).sum[0]
    return ImageStat.Stat(ImageChops.multiply(changed, mask)).sum[0] / whole if whole > _SEEN else math.nan


def _needing(kind: str, name: str) -> tuple[str, ...]:
    """The attributes that show nothing without another one."""
    return tuple(each.name for each in attributes_of(kind) if name in each.needs)


def _changed(subject: Subject, rng: random.Random, unseen: float, details: float) -> tuple[str, Subject]:
    """The same subject with another value of one of the attributes that can be seen of it, and the attribute's name."""
    while True:
        fresh = draw_subject(rng, subject.kind, unseen=unseen, details=details)
        shown = fresh.shown()
        if names := [name for name in subject.shown() if shown.get(name, subject[name]) != subject[name]]:
            name = rng.choices(names, [_FACE.get(each, 1.0) for each in names])[0]
            new = (name, *_needing(subject.kind, name)) if subject[name] in _LITTLE else (name,)
            changed = subject.replaced(**{each: fresh[each] for each in new})
            if details_show(changed):
                return name, changed
