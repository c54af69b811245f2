"""Two pictures in one, side by side: what a concept looks like in a column of its own, when no photograph shows it.

As in Cut-Mix-Unmix (Han et al. 2023, "SVDiff: Compact parameter space for diffusion fine-tuning", section 3.3) halves
of a picture show two subjects. There both are being learned, and one prompt names both; here the other one is what the
base draws, and each column has its own prompt, as when several concepts are drawn together.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from conceptctl.diffusion.regions import Composition

RELATIONS = ("next to", "and")
"""What a prompt says between the left subject and the right one."""
OPENINGS = ("a photo of ", "a photo of ", "")
"""What a prompt begins with; one of them for each scene."""
SCALE = 2 / 3
"""How large pictures are in a scene. Half the width would show all of them, too small for their details."""
SEAM = 1 / 8
"""The share of a scene's width, in its middle, that is not learned from: nothing but the cut is there."""


@dataclass(frozen=True)
class Cast:
    """One subject of scenes."""

    called: str
    """What the whole scene's prompt says it is: "a cat"."""
    prompt: str
    """Its column's: "a photo of a cat", "a photo of a V*falls"."""
    pictures: Sequence[Image.Image]
    """RGB, square, all of one size."""


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
        left, right = pair
        whole = f"{rng.choice(OPENINGS)}{left.called} {rng.choice(RELATIONS)} {right.called}"
        picture = side_by_side(rng.choice(left.pictures), rng.choice(right.pictures))
        yield Scene(picture, Composition(whole, (left.prompt, right.prompt)), pair.index(own))


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    """Put the middles of two pictures of one size side by side, at the bottom; what is above goes on upwards."""
    side = left.width
    scene = Image.new("RGB", (side, side))
    small, top = round(SCALE * side), side - round(SCALE * side)
    for picture, edge in ((left, 0), (right, side // 2)):
        width = side // 2 if edge == 0 else side - side // 2
        inset = (small - width) // 2
        shrunk = picture.resize((small, small), Image.Resampling.LANCZOS).crop((inset, 0, inset + width, small))
        scene.paste(shrunk, (edge, top))
        scene.paste(shrunk.crop((0, 0, width, 1)).resize((width, top)), (edge, 0))
    return scene


def learned_from(height: int, width: int, column: int) -> Tensor:
    """Which latents of a scene are learned from: 1 for those of the concept's column, 0 at the seam, (1, H, W)."""
    seam = max(1, round(SEAM * width / 2))
    share = torch.zeros(1, height, width)
    if column == 0:
        share[:, :, : width // 2 - seam] = 1
    else:
        share[:, :, (width + 1) // 2 + seam :] = 1
    return share
