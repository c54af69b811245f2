"""Practice pictures: random shapes in free colours, so that the autoencoder learns to draw what the world lacks.

Concepts carry details and colours that pre-training never draws. An autoencoder that has only seen the
world would smear them, and the details would then be unlearnable for every method alike.
"""

from __future__ import annotations

import random

from PIL import Image, ImageDraw

SIZE = 64
"""Side of a finished picture, in pixels."""

SUPERSAMPLE = 4
"""Pictures are drawn this many times larger and averaged down, which is what smooths their edges."""

Colour = tuple[int, int, int]


def _colour(rng: random.Random) -> Colour:
    return (rng.randrange(256), rng.randrange(256), rng.randrange(256))


def practice_picture(rng: random.Random) -> Image.Image:
    """Draw one picture of random shapes.

    Args:
        rng: The only source of randomness.

    Returns:
        An RGB picture of 64 x 64 pixels.
    """
    side = SIZE * SUPERSAMPLE
    image = gradient(side, _colour(rng), _colour(rng), vertical=rng.random() < 0.7)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randint(3, 12)):
        # Small shapes are drawn more often than large ones: details are what is hard to keep.
        _shape(pen, rng, side, side * 0.5 * rng.random() ** 2 + side * 0.03)
    return image.reduce(SUPERSAMPLE)


def scribbled(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Draw one to three small random shapes over a picture.

    Args:
        picture: RGB, 64 x 64 pixels; it is left as it is.
        rng: The only source of randomness.
    """
    side = SIZE * SUPERSAMPLE
    image = picture.resize((side, side), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randint(1, 3)):
        _shape(pen, rng, side, side * rng.uniform(0.02, 0.1))
    return image.reduce(SUPERSAMPLE)


def _shape(pen: ImageDraw.ImageDraw, rng: random.Random, side: int, extent: float) -> None:
    x, y = rng.uniform(0, side), rng.uniform(0, side)
    kind = rng.randrange(5)
    if kind == 0:
        pen.ellipse(
            (x - extent, y - extent * rng.uniform(0.4, 1), x + extent, y + extent),
            fill=_colour(rng),
        )
    elif kind == 1:
        pen.rectangle(
            (x - extent, y - extent * rng.uniform(0.2, 1), x + extent, y + extent),
            fill=_colour(rng),
        )
    elif kind == 2:
        points = [
            (x + rng.uniform(-extent, extent), y + rng.uniform(-extent, extent)) for _ in range(rng.randint(3, 5))
        ]
        pen.polygon(points, fill=_colour(rng))
    elif kind == 3:
        angle_end = (x + rng.uniform(-2, 2) * extent, y + rng.uniform(-2, 2) * extent)
        pen.line((x, y, *angle_end), fill=_colour(rng), width=rng.randint(4, 14))
    else:
        _stripes(pen, rng, x, y, extent)


def _stripes(pen: ImageDraw.ImageDraw, rng: random.Random, x: float, y: float, extent: float) -> None:
    colours = _colour(rng), _colour(rng)
    pitch = rng.uniform(8, 18)
    upright = rng.random() < 0.5
    for index in range(int(2 * extent / pitch)):
        at = index * pitch - extent
        box = (
            (x + at, y - extent, x + at + pitch, y + extent)
            if upright
            else (x - extent, y + at, x + extent, y + at + pitch)
        )
        pen.rectangle(box, fill=colours[index % 2])


def gradient(side: int, first: Colour, last: Colour, *, vertical: bool = True) -> Image.Image:
    """Fill a square with a smooth change from one colour to another.

    Args:
        side: The side of the square, in pixels.
        first: The colour at the top, or at the left.
        last: The colour at the bottom, or at the right.
        vertical: Whether the colour changes from top to bottom.

    Returns:
        An RGB picture of `side` x `side` pixels.
    """
    strip = Image.new("RGB", (1, 2) if vertical else (2, 1))
    strip.putpixel((0, 0), first)
    strip.putpixel((0, 1) if vertical else (1, 0), last)
    return strip.resize((side, side), Image.Resampling.BILINEAR)
