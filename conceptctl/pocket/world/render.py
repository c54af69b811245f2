"""From a scene to a picture: the background, then each subject from the back to the front."""

from __future__ import annotations

import random
from collections.abc import Callable

from PIL import Image

from conceptctl.pocket.world.kinds import Colour, Subject
from conceptctl.pocket.world.pen import Pen, shade
from conceptctl.pocket.world.people import draw_person
from conceptctl.pocket.world.practice import SIZE, SUPERSAMPLE, gradient
from conceptctl.pocket.world.scenes import Scene, Spot, lay_out
from conceptctl.pocket.world.things import draw_backpack, draw_cat, draw_dog, draw_duck, draw_mug, draw_teapot
from conceptctl.pocket.world.waterfalls import draw_waterfall

_DRAW: dict[str, Callable[[Pen, Subject, random.Random], None]] = {
    "person": draw_person,
    "waterfall": draw_waterfall,
    "mug": draw_mug,
    "teapot": draw_teapot,
    "backpack": draw_backpack,
    "cat": draw_cat,
    "dog": draw_dog,
    "duck": draw_duck,
}

_SKIES: dict[str, tuple[Colour, Colour]] = {
    "day": ((120, 184, 240), (214, 236, 250)),
    "sunset": ((236, 120, 80), (252, 214, 130)),
    "night": ((18, 22, 60), (52, 60, 116)),
}
_DUSK = {"day": 1.0, "sunset": 0.86, "night": 0.5}


def render(scene: Scene, rng: random.Random) -> Image.Image:
    """Draw a scene.

    Args:
        scene: What to show.
        rng: Decides everything that no caption says: positions, sizes, expressions, the shape of hills.

    Returns:
        An RGB picture of 64 x 64 pixels, the same for the same scene and the same state of `rng`.
    """
    return render_with_layout(scene, rng)[0]


def render_with_layout(scene: Scene, rng: random.Random) -> tuple[Image.Image, tuple[Spot, ...]]:
    """Draw a scene, and tell where its subjects stand, in the order of `scene.subjects`."""
    image = _background(scene, rng)
    spots = lay_out(rng, scene)
    for spot, subject in sorted(zip(spots, scene.subjects, strict=True), key=lambda pair: pair[0].y):
        _DRAW[subject.kind](Pen(image, spot), subject, rng)
    return image.reduce(SUPERSAMPLE), spots


def _background(scene: Scene, rng: random.Random) -> Image.Image:
    side = SIZE * SUPERSAMPLE
    if scene.place == "studio" and all(subject.kind != "waterfall" for subject in scene.subjects):
        wall = tuple(rng.randint(110, 245) for _ in range(3))
        colour = (wall[0], wall[1], wall[2])
        return gradient(side, shade(colour, 1.12), shade(colour, 0.9))
    image = gradient(side, *_SKIES[scene.light])
    pen = Pen(image, Spot(0, 0, 1))
    if scene.light == "night":
        pen.ellipse(rng.uniform(44, 58), rng.uniform(6, 12), 4, 4, (244, 240, 206))
    elif scene.light == "sunset":
        pen.ellipse(rng.uniform(6, 58), rng.uniform(24, 34), 6, 6, (255, 238, 170))
    _PLACES[scene.place](pen, rng, _DUSK[scene.light])
    return image


def _meadow(pen: Pen, rng: random.Random, dusk: float) -> None:
    pen.ellipse(rng.uniform(0, 24), 56, 36, rng.uniform(12, 20), shade((110, 160, 96), dusk))
    pen.ellipse(rng.uniform(40, 64), 58, 36, rng.uniform(12, 20), shade((88, 142, 84), dusk))
    pen.box(0, 52, 64, 64, shade((104, 160, 82), dusk))


def _beach(pen: Pen, rng: random.Random, dusk: float) -> None:
    horizon = rng.uniform(30, 36)
    pen.box(0, horizon, 64, 64, shade((42, 128, 190), dusk))
    pen.ellipse(rng.uniform(26, 38), 64, 60, rng.uniform(15, 19), shade((238, 214, 150), dusk))


def _forest(pen: Pen, rng: random.Random, dusk: float) -> None:
    pen.box(0, 48, 64, 64, shade((72, 108, 52), dusk))
    shift = rng.uniform(-4, 4)
    for index in range(5):
        x = 2 + 15 * index + shift
        pen.box(x - 2, 34, x + 2, 52, shade((88, 60, 40), dusk))
        pen.polygon([(x - 9, 42), (x, rng.uniform(6, 14)), (x + 9, 42)], shade((30, 96, 58), dusk))


def _city(pen: Pen, rng: random.Random, dusk: float) -> None:
    for index in range(6):
        x, top = 11 * index - 1.0, rng.uniform(14, 32)
        pen.box(x, top, x + 10, 60, shade(((112, 116, 128), (140, 128, 122))[index % 2], dusk))
        for row in range(2):
            y = top + 4 + 9 * row
            pen.box(x + 3, y, x + 7, y + 4.5, (250, 226, 140) if dusk < 1 else (188, 212, 232))
    pen.box(0, 54, 64, 64, shade((86, 86, 92), dusk))


def _snow(pen: Pen, rng: random.Random, dusk: float) -> None:
    for x in (rng.uniform(4, 18), rng.uniform(44, 60)):
        top = rng.uniform(14, 22)
        pen.polygon([(x - 24, 52), (x, top), (x + 24, 52)], shade((120, 134, 156), dusk))
        pen.polygon([(x - 8, top + 10), (x, top), (x + 8, top + 10), (x, top + 13)], shade((246, 248, 252), dusk))
    pen.ellipse(32, 62, 50, 16, shade((234, 240, 248), dusk))


_PLACES: dict[str, Callable[[Pen, random.Random, float], None]] = {
    "studio": _meadow,
    "beach": _beach,
    "forest": _forest,
    "city": _city,
    "snow": _snow,
}
