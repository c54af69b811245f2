"""How a waterfall is drawn: a cliff, the water that falls down it, and what stands around."""

from __future__ import annotations

import random
from itertools import pairwise

from conceptctl.pocket.world.kinds import COLOURS, NONE, Colour, Subject
from conceptctl.pocket.world.pen import Pen, Point, shade

WATER = (126, 196, 236)
FOAM = (236, 248, 252)

_CLIFFS: dict[str, tuple[Point, ...]] = {
    "flat": ((-29, 0), (-27, -45), (27, -45), (29, 0)),
    "pointed": ((-30, 0), (-17, -36), (-6, -44), (0, -58), (6, -44), (17, -36), (30, 0)),
    "stepped": ((-29, 0), (-28, -52), (-10, -52), (-9, -40), (9, -40), (10, -27), (28, -27), (29, 0)),
}
_STREAMS: dict[str, tuple[float, ...]] = {"one": (0,), "two": (-8.5, 8.5), "three": (-15, 0, 15)}
_RAINBOW = ((226, 60, 60), (246, 210, 60), (70, 180, 90), (80, 100, 220))


def draw_waterfall(pen: Pen, fall: Subject, rng: random.Random) -> None:
    """Draw a waterfall; the foam at its foot varies from picture to picture."""
    cliff = _CLIFFS[fall["cliff"]]
    _behind(pen, fall, cliff)
    _rock(pen, fall, cliff)
    for x in _STREAMS[fall["streams"]]:
        top = max(_height(cliff, x - 2.5), _height(cliff, x + 2.5))
        pen.box(x - 3.2, top, x + 3.2, -3, WATER)
        pen.box(x - 0.8, top + 2, x + 0.8, -5, FOAM)
    if fall["mark"] == "arch":
        _arch(pen, COLOURS[fall["mark_colour"]])
    if fall["bridge"] != NONE:
        _bridge(pen)
    _pool(pen, _STREAMS[fall["streams"]], rng)
    _before(pen, fall)


def _behind(pen: Pen, fall: Subject, cliff: tuple[Point, ...]) -> None:
    if fall["mark"] == "tower":
        _tower(pen, fall["cliff"], COLOURS[fall["mark_colour"]])
    if fall["plants"] == "pines":
        for x in (-22, 21):
            _pine(pen, x, _height(cliff, x) + 2)


def _rock(pen: Pen, fall: Subject, cliff: tuple[Point, ...]) -> None:
    rock = COLOURS[fall["rock_colour"]]
    pen.polygon(cliff, rock)
    for x in (-22.5, 22.5):
        pen.polygon([(x - 4, 0), (x - 1.5, -20), (x + 1.5, -14), (x + 4, 0)], shade(rock, 0.78))
    if fall["extra"] == "moss":
        _moss(pen, cliff, COLOURS[fall["extra_colour"]])


def _before(pen: Pen, fall: Subject) -> None:
    if fall["plants"] == "bushes":
        for x, size in ((-24, 5.0), (-17, 3.6), (24, 5.0), (17, 3.6)):
            pen.ellipse(x, -size + 1, size, size, (40, 128, 52))
    if fall["rainbow"] != NONE:
        for index, colour in enumerate(_RAINBOW):
            pen.arc(4, -6, 27 - 1.9 * index, 30 - 1.9 * index, 195, 345, colour, 2.1)
    if fall["mark"] == "boat":
        _boat(pen, COLOURS[fall["mark_colour"]])
    if fall["extra"] == "flags":
        _flags(pen, COLOURS[fall["extra_colour"]])


def _height(cliff: tuple[Point, ...], x: float) -> float:
    """The y of a cliff's upper edge above x."""
    for (x0, y0), (x1, y1) in pairwise(cliff):
        if x0 <= x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return 0.0


def _pool(pen: Pen, streams: tuple[float, ...], rng: random.Random) -> None:
    pen.ellipse(0, 0, 27, 6, (66, 140, 200))
    for x in streams:
        pen.ellipse(x, -3, 5 + rng.uniform(-1, 1.5), 2.2, FOAM)


def _arch(pen: Pen, colour: Colour) -> None:
    pen.arc(0, -4, 15, 18, 180, 360, colour, 4.2)
    for side in (-1, 1):
        pen.box(side * 12.9 - 2.1, -5, side * 12.9 + 2.1, 0, colour)


def _pine(pen: Pen, x: float, y: float) -> None:
    pen.box(x - 1, y - 4, x + 1, y, (90, 60, 40))
    pen.polygon([(x - 5, y - 3), (x, y - 15), (x + 5, y - 3)], (24, 92, 52))


def _bridge(pen: Pen) -> None:
    wood = (140, 88, 44)
    pen.box(-28, -23, 28, -20, wood)
    pen.line([(-28, -27), (28, -27)], wood, 1.3)
    for x in (-24, -12, 0, 12, 24):
        pen.line([(x, -27), (x, -22)], wood, 1.3)


def _tower(pen: Pen, cliff: str, colour: Colour) -> None:
    x, foot = {"flat": (13.0, -44.0), "pointed": (14.0, -35.0), "stepped": (1.0, -39.0)}[cliff]
    pen.box(x - 4, foot - 12, x + 4, foot + 3, colour)
    pen.polygon([(x - 5.6, foot - 11.5), (x, foot - 18), (x + 5.6, foot - 11.5)], shade(colour, 0.7))


def _moss(pen: Pen, cliff: tuple[Point, ...], colour: Colour) -> None:
    for (x0, y0), (x1, y1) in pairwise(cliff[1:-1]):
        pen.line([(x0, y0 + 2.4), (x1, y1 + 2.4)], colour, 6.4)


def _boat(pen: Pen, colour: Colour) -> None:
    pen.polygon([(-9.5, -5), (9.5, -5), (6, 0.5), (-6, 0.5)], colour)
    pen.polygon([(0, -16), (0, -6), (8, -6)], shade(colour, 1.4))
    pen.line([(0, -16), (0, -4)], (70, 50, 40), 1.4)


def _flags(pen: Pen, colour: Colour) -> None:
    for x in (-28, 14):
        pen.line([(x, -21), (x, 1)], (60, 50, 50), 1.6)
        pen.polygon([(x, -22), (x + 14, -15.5), (x, -9)], colour)
