"""Two pictures in one, side by side: what a concept looks like beside something else, when no photograph shows it.

As in Cut-Mix-Unmix (Han et al. 2023, "SVDiff: Compact parameter space for diffusion fine-tuning", section 3.3) halves
of a picture show two subjects, and its prompt names both. There both are being learned; here the other one is what
the model draws already.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

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

    names: Sequence[str]
    """How prompts may name it: "a cat"; "a V*falls", "V*falls"."""
    pictures: Sequence[Image.Image]
    """RGB, square, all of one size."""


def scenes(
    own: Cast, others: Sequence[Sequence[Cast]], count: int, rng: random.Random
) -> Iterator[tuple[Image.Image, str]]:
    """Paste pictures of a concept beside pictures of others, as often on the left as on the right.

    Args:
        own: The concept's pictures.
        others: What it is put beside, in groups: every group is as often there as every other, and so is each in it.
        count: How many scenes.
        rng: The only source of randomness.

    Yields:
        Scenes of the pictures' size, with their prompts.
    """
    groups = [group for group in others if group]
    for _ in range(count):
        other = rng.choice(rng.choice(groups))
        subjects = [(rng.choice(each.pictures), rng.choice(each.names)) for each in (own, other)]
        rng.shuffle(subjects)
        (left, first), (right, second) = subjects
        yield side_by_side(left, right), f"{rng.choice(OPENINGS)}{first} {rng.choice(RELATIONS)} {second}"


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


def learned_from(height: int, width: int) -> Tensor:
    """Which latents of a scene are learned from: 1 for those, and 0 above the pictures and at the seam, (1, H, W)."""
    share = torch.ones(1, height, width)
    share[:, : height - int(SCALE * height)] = 0
    seam = max(1, round(SEAM * width / 2))
    share[:, :, width // 2 - seam : (width + 1) // 2 + seam] = 0
    return share
