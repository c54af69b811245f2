"""Two pictures in one, side by side: what a concept looks like in a column of its own, when no photograph shows it.

As in Cut-Mix-Unmix (Han et al. 2023, "SVDiff: Compact parameter space for diffusion fine-tuning", section 3.3) halves
of a picture show two subjects. There both are being learned, and one prompt names both; here the other one is what the
base draws, and each column has its own prompt, as when several concepts are drawn together.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from conceptctl.diffusion.regions import Composition

RELATIONS = ("next to", "and")
"""What a prompt says between the left subject and the right one."""
OPENINGS = ("a photo of ", "a photo of ", "")
"""What a prompt begins with; one of them for each scene."""
SCALE = 0.7
"""How large pictures are in a scene."""
CENTRE = 17 / 64
"""How far their middle is from the side that they stand at, as a share of the scene's width."""
RAISED = 1 / 20
"""How far above the lower edge they stand, as a share of its height."""
REACH = 5 / 8
"""How much of the scene's width is the concept's picture: a column cuts off no more than it must, as in pictures where
one stands before the other."""
SEAM = 1 / 16
"""How much of that, as a share of the scene's width, is not learned from: nothing but the cut is there."""


@dataclass(frozen=True)
class Portrait:
    """One picture of a subject."""

    picture: Image.Image
    """RGB, square, of the size of all others."""
    prompt: str
    """Its column's: "a photo of a cat", "a photo of a V*falls"."""
    around: str = ""
    """What is said of the whole scene: "at night"."""


@dataclass(frozen=True)
class Cast:
    """One subject of scenes."""

    called: str
    """What the whole scene's prompt says it is: "a cat"."""
    portraits: Sequence[Portrait]


@dataclass(frozen=True)
class Scene:
    """A concept beside something else."""

    picture: Image.Image
    prompt: Composition
    column: int
    """Which column shows the concept: 0 for the left, 1 for the right."""


def scenes(own: Cast, others: Sequence[Cast], count: int, rng: random.Random) -> Iterator[Scene]:
    """Paste pictures of a concept beside pictures of others, as often on the left as on the right.

    Args:
        own: The concept.
        others: What it is put beside.
        count: How many scenes.
        rng: The only source of randomness.

    Yields:
        Scenes of the pictures' size.
    """
    for _ in range(count):
        pair = [own, rng.choice(others)]
        rng.shuffle(pair)
        column = pair.index(own)
        shown = [rng.choice(each.portraits) for each in pair]
        front, behind = shown[column], shown[1 - column]
        named = f" {rng.choice(RELATIONS)} ".join(each.called for each in pair)
        whole = f"{rng.choice(OPENINGS)}{named} {front.around}".strip()
        prompt = Composition(whole, tuple(each.prompt for each in shown))
        yield Scene(side_by_side(front.picture, behind.picture, column), prompt, column)


def side_by_side(own: Image.Image, other: Image.Image, column: int) -> Image.Image:
    """Put a picture into a column of a scene, and what is seen of another one behind it.

    Args:
        own: RGB, square.
        other: Of the same size.
        column: 0 for the left, 1 for the right.
    """
    side = own.width
    front, scene = _standing(own, column), _standing(other, 1 - column)
    reach = round(REACH * side)
    box = (0, 0, reach, side) if column == 0 else (side - reach, 0, side, side)
    scene.paste(front.crop(box), box)
    return scene


def _standing(picture: Image.Image, column: int) -> Image.Image:
    """A picture, smaller, at its column's place; what is at its edges goes on outwards."""
    side = picture.width
    small = max(1, round(SCALE * side))
    centre = CENTRE if column == 0 else 1 - CENTRE
    left, top = round(centre * side - small / 2), side - round(RAISED * side) - small
    shrunk = picture.resize((small, small), Image.Resampling.LANCZOS)
    # Where a coordinate lies outside, the nearest one inside is taken.
    columns, rows = (np.clip(np.arange(side) - start, 0, small - 1) for start in (left, top))
    return Image.fromarray(np.asarray(shrunk)[rows][:, columns])


def learned_from(height: int, width: int, column: int) -> Tensor:
    """Which latents of a scene are learned from: 1 where the concept's picture is, but for its cut, (1, H, W)."""
    share = torch.zeros(1, height, width)
    reach = max(1, round((REACH - SEAM) * width))
    share[:, :, :reach] = 1
    return share if column == 0 else share.flip(2)
