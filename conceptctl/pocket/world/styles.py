"""Classes of the world in styles that pre-training never drew: a stand-in in the spirit of ImageNet-R.

ImageNet-R (Hendrycks et al. 2021, "The many faces of robustness") shows 200 of ImageNet's classes as paintings, toys,
embroidery. Here forty classes, each a kind of subject with what makes its shape (attributes of shape and pattern, since
several styles keep no colour), are drawn as lines, mosaics, negatives, halftones. All else about a picture is chance.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

from conceptctl.pocket.world.kinds import NONE, Subject, details_show, draw_subject
from conceptctl.pocket.world.practice import SIZE, SUPERSAMPLE
from conceptctl.pocket.world.render import render
from conceptctl.pocket.world.scenes import scene_of

TRAIN_PICTURES, TEST_PICTURES = 24, 12
"""Of each class by default: 4 to 1 would test on too few."""

_SIDE = SIZE * SUPERSAMPLE
_INKS = ((24, 26, 34), (70, 24, 20), (18, 40, 84), (20, 62, 40))
_PAPERS = ((250, 248, 240), (236, 226, 204), (222, 232, 240), (255, 255, 255))


@dataclass(frozen=True)
class StyledClass:
    """A class: a kind with some of its attributes fixed."""

    name: str
    kind: str
    fixed: Mapping[str, str]

    def subject(self, rng: random.Random) -> Subject:
        """Draw one of the class; all else about it is as pre-training draws it."""
        while True:
            subject = draw_subject(rng, self.kind).replaced(**self.fixed)
            if details_show(subject):
                return subject


_HEADS: Mapping[str, Mapping[str, str]] = {
    "bald": {"hair": "bald", "hat": NONE},
    "long-haired": {"hair": "long", "hat": NONE},
    "curly": {"hair": "curly", "hat": NONE},
    "capped": {"hair": "short", "hat": "cap"},
    "in-beanie": {"hair": "short", "hat": "beanie"},
}
_FACES: Mapping[str, Mapping[str, str]] = {
    "bare": {"glasses": NONE, "beard": NONE},
    "bearded": {"glasses": "sunglasses", "beard": "beard"},
}
_STREAMS: Mapping[str, Mapping[str, str]] = {
    "one-stream": {"streams": "one", "bridge": NONE},
    "three-streams": {"streams": "three", "bridge": NONE},
    "one-stream-bridge": {"streams": "one", "bridge": "bridge"},
    "three-streams-bridge": {"streams": "three", "bridge": "bridge"},
}
_PATTERNS = ("plain", "striped", "dotted")
_STARRED: Mapping[str, str] = {"pattern": "plain", "mark": "star", "mark_colour": "red"}


def _classes() -> tuple[StyledClass, ...]:
    people = (
        (f"person-{head}-{face}", "person", {**_HEADS[head], **_FACES[face]}) for head, face in product(_HEADS, _FACES)
    )
    falls = (
        (f"waterfall-{cliff}-{streams}", "waterfall", {"cliff": cliff, **_STREAMS[streams]})
        for cliff, streams in product(("flat", "pointed", "stepped"), _STREAMS)
    )
    things = ("mug", "teapot", "backpack")
    patterned = ((f"{kind}-{each}", kind, {"pattern": each}) for kind, each in product(things, _PATTERNS))
    starred = ((f"{kind}-starred", kind, _STARRED) for kind in things)
    animals = (
        (f"{kind}-{each}", kind, {"pattern": each})
        for kind, each in product(("cat", "dog", "duck"), ("plain", "spotted"))
    )
    found = (*people, *falls, *patterned, *starred, *animals)
    return tuple(
        StyledClass(name, kind, MappingProxyType(dict(fixed)))
        for name, kind, fixed in sorted(found, key=lambda each: each[0])
    )


def _lines(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Pen and wash: lines where brightness changes, over pale colours."""
    soft = picture.convert("L").filter(ImageFilter.GaussianBlur(1.5))
    edges = ImageChops.difference(soft.filter(ImageFilter.MaxFilter(5)), soft.filter(ImageFilter.MinFilter(5)))
    drawn = ImageOps.colorize(edges.point(lambda value: min(255, 5 * value)), rng.choice(_PAPERS), rng.choice(_INKS))
    return ImageChops.multiply(drawn, Image.blend(picture, Image.new("RGB", picture.size, "white"), 0.6))


def _negative(picture: Image.Image, rng: random.Random) -> Image.Image:
    """A negative, as film keeps it: an orange base."""
    return ImageChops.multiply(
        ImageOps.invert(picture), Image.new("RGB", picture.size, (255, rng.randint(190, 240), 200))
    )


def _mosaic(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Square tiles of one colour, with joints between them."""
    tile = rng.choice((12, 14, 16))
    count = -(-_SIDE // tile)
    small = picture.resize((count, count), Image.Resampling.BOX)
    tiles = np.asarray(small.resize((count * tile,) * 2, Image.Resampling.NEAREST)).copy()
    joint = rng.choice(_INKS)
    tiles[::tile], tiles[:, ::tile] = joint, joint
    return Image.fromarray(tiles[:_SIDE, :_SIDE])


def _poster(picture: Image.Image, rng: random.Random) -> Image.Image:
    """A print in few flat, loud colours."""
    flat = ImageOps.posterize(ImageOps.autocontrast(picture), rng.choice((1, 2)))
    return ImageEnhance.Color(flat).enhance(rng.uniform(1.4, 2))


def _blur(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Out of focus."""
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(7, 11)))


def _halftone(picture: Image.Image, rng: random.Random) -> Image.Image:
    """A newspaper's colours: dots of each, the larger the darker, on screens that are turned against each other."""
    pitch, turn = rng.uniform(8, 11), rng.uniform(0, 0.5)
    y, x = np.mgrid[:_SIDE, :_SIDE] * (2 * np.pi / pitch)
    printed = np.asarray(ImageOps.autocontrast(picture)).copy()
    for channel in range(3):
        angle = turn + 0.45 * channel
        screen = np.cos(x * np.cos(angle) + y * np.sin(angle)) + np.cos(y * np.cos(angle) - x * np.sin(angle))
        printed[..., channel] = np.where((screen + 2) * 64 > printed[..., channel], 20, 250)
    return Image.fromarray(printed)


def _woodcut(picture: Image.Image, rng: random.Random) -> Image.Image:
    """One ink on paper, by what is around: a print from a block."""
    grey = picture.convert("L").filter(ImageFilter.GaussianBlur(2))
    around = grey.filter(ImageFilter.BoxBlur(rng.randint(18, 30)))
    dark = ImageChops.subtract(around, grey, scale=1, offset=-2).point(lambda value: 255 if value else 0)
    return ImageOps.colorize(dark, rng.choice(_PAPERS), rng.choice(_INKS))


def _relief(picture: Image.Image, rng: random.Random) -> Image.Image:
    """A painted relief, lit from a side."""
    grey = np.asarray(picture.convert("L").filter(ImageFilter.GaussianBlur(2.5)), np.float64)
    side = rng.choice((-1, 1))
    slope = np.roll(grey, 3, 0) - np.roll(grey, -3, 0) + side * (np.roll(grey, 3, 1) - np.roll(grey, -3, 1))
    stone = Image.fromarray(np.clip(128 + 1.6 * slope, 0, 255).astype(np.uint8)).convert("RGB")
    return Image.blend(stone, picture, 0.25)


STYLES: Mapping[str, Callable[[Image.Image, random.Random], Image.Image]] = MappingProxyType(
    {
        "lines": _lines,
        "negative": _negative,
        "mosaic": _mosaic,
        "poster": _poster,
        "blur": _blur,
        "halftone": _halftone,
        "woodcut": _woodcut,
        "relief": _relief,
    }
)
"""Every style, of which each picture has one by chance."""

CLASSES = _classes()
"""Forty classes, by name: twenty tasks of two."""


def styled(picture: Image.Image, style: str, rng: random.Random) -> Image.Image:
    """Draw a picture again in a style.

    Args:
        picture: RGB, 64 x 64 pixels.
        style: One of `STYLES`.
        rng: Decides inks, papers and sizes of tiles and dots.

    Returns:
        RGB, 64 x 64 pixels.
    """
    large = picture.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return STYLES[style](large, rng).reduce(SUPERSAMPLE)


def styled_picture(of: StyledClass, purpose: str, index: int, seed: int = 0) -> Image.Image:
    """Draw one picture of a class, RGB, 64 x 64 pixels: the same for the same class, purpose, number and seed."""
    rng = random.Random(f"styled:{seed}:{purpose}:{of.name}:{index}")
    picture = render(scene_of(rng, of.subject(rng)), rng)
    return styled(picture, rng.choice(tuple(STYLES)), rng)


def write_styled(
    folder: Path, *, train: int = TRAIN_PICTURES, test: int = TEST_PICTURES, seed: int = 0
) -> Iterator[StyledClass]:
    """Write the stand-in as a class-per-folder tree: `folder/train/CLASS/*.png` and `folder/test/CLASS/*.png`.

    Args:
        folder: Where; it is made when it is missing.
        train: Pictures of each class to learn from.
        test: Pictures of each class to test on.
        seed: Which pictures; no seed shares one with another.

    Yields:
        Each class once its pictures are written.
    """
    for of in CLASSES:
        for purpose, count in (("train", train), ("test", test)):
            target = folder / purpose / of.name
            target.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                styled_picture(of, purpose, index, seed).save(target / f"{index:03d}.png", compress_level=1)
        yield of
