"""How objects and animals are drawn."""

from __future__ import annotations

import random

from conceptctl.pocket.world.kinds import COLOURS, Colour, Subject
from conceptctl.pocket.world.pen import Pen, contrast, shade

INK = (30, 26, 30)


def draw_mug(pen: Pen, mug: Subject, rng: random.Random) -> None:
    """Draw a mug; it steams in some pictures."""
    colour = COLOURS[mug["colour"]]
    pen.ring(16, -19, 9.5, 11, shade(colour, 0.85), 4)
    pen.box(-16, -36, 14, -2, colour, radius=4)
    pen.ellipse(-1, -35.5, 15, 4.2, shade(colour, 0.7))
    pen.ellipse(-1, -35, 12.6, 2.8, (84, 50, 32))
    _pattern(pen, mug, colour, (-16, -29, 14, -5), ((-11, -26), (9, -26), (-11, -9), (9, -9), (-1, -28), (-1, -8)))
    if rng.random() < 0.4:
        for x in (-6, 4):
            pen.line([(x, -41), (x + 2, -45), (x, -49), (x + 2, -53)], (235, 235, 240), 1.6)
    _decoration(pen, mug, -1, -17, (-16, -8, 14, -2.5), (14, -33))


def draw_teapot(pen: Pen, teapot: Subject, rng: random.Random) -> None:
    """Draw a teapot."""
    colour = COLOURS[teapot["colour"]]
    pen.ring(19, -20, 9, 10.5, shade(colour, 0.85), 3.6)
    pen.polygon([(-14, -14), (-29, -34), (-24, -36), (-13, -24)], shade(colour, 0.85))
    pen.ellipse(0, -18, 19, 16.5, colour)
    if teapot["pattern"] == "striped":
        pen.striped_ellipse(0, -18, 19, 16.5, contrast(colour), 8)
    elif teapot["pattern"] == "dotted":
        _dots(pen, colour, ((-12, -24), (12, -24), (-12, -11), (12, -11), (0, -29), (0, -6)))
    pen.chord(0, -31, 11, 6, 180, 360, shade(colour, 0.8))
    pen.ellipse(0, -39 + rng.uniform(-0.4, 0.4), 3, 3, shade(colour, 0.7))
    _decoration(pen, teapot, 0, -18, (-15, -7.6, 15, -3.6), (20, -29))


def draw_backpack(pen: Pen, backpack: Subject, rng: random.Random) -> None:
    """Draw a backpack."""
    colour = COLOURS[backpack["colour"]]
    pen.ring(0, -47, 7, 7, shade(colour, 0.6), 2.6)
    for side in (-1, 1):
        pen.box(side * 17 - 4, -33, side * 17 + 4, -4, shade(colour, 0.7), radius=3)
    pen.box(-17, -46, 17, -1, colour, radius=9)
    _pattern(pen, backpack, colour, (-17, -37, 17, -20), ((-11, -36), (0, -40), (11, -36), (-12, -24), (12, -24)))
    pen.box(-12, -18 + rng.uniform(-0.4, 0.4), 12, -4, shade(colour, 0.8), radius=3)
    pen.line([(-9, -13), (9, -13)], shade(colour, 0.5), 1.2)
    _decoration(pen, backpack, 0, -29, (-12, -10, 12, -5), (17, -40))


def draw_cat(pen: Pen, cat: Subject, rng: random.Random) -> None:
    """Draw a sitting cat; its tail is on either side."""
    fur = COLOURS[cat["colour"]]
    side = rng.choice((-1, 1))
    pen.arc(side * 15, -14, 9, 14, 0 if side > 0 else 30, 150 if side > 0 else 180, fur, 4.2)
    _sitting_body(pen, cat, fur)
    for ear in (-1, 1):
        pen.polygon([(ear * 12.5, -34), (ear * 11.5, -53), (ear * 2.5, -43)], fur)
        pen.polygon([(ear * 10.5, -38), (ear * 10.2, -48), (ear * 5.4, -43)], (236, 160, 160))
    pen.ellipse(0, -34, 13.5, 12, fur)
    _animal_face(pen, cat, -35, (216, 230, 90))
    pen.polygon([(-2, -31.6), (2, -31.6), (0, -29.4)], (226, 110, 120))
    for ear in (-1, 1):
        pen.line([(ear * 5.5, -29), (ear * 15, -29)], contrast(fur), 1.2)


def draw_dog(pen: Pen, dog: Subject, rng: random.Random) -> None:
    """Draw a sitting dog; it shows its tongue in some pictures."""
    fur = COLOURS[dog["colour"]]
    _sitting_body(pen, dog, fur)
    pen.ellipse(0, -36, 12.5, 13, fur)
    for ear in (-1, 1):
        pen.ellipse(ear * 13.5, -35, 4.6, 11.5, shade(fur, 0.66) if sum(fur) > 160 else shade(fur, 1.25))
    _animal_face(pen, dog, -39, (90, 56, 30))
    pen.ellipse(0, -30, 6.6, 5.4, shade(fur, 1.45))
    pen.ellipse(0, -32.6, 3, 2.1, INK)
    if rng.random() < 0.5:
        pen.ellipse(0, -24.6, 2.2, 3.4, (232, 96, 110))


def draw_duck(pen: Pen, duck: Subject, rng: random.Random) -> None:
    """Draw a duck from its side, looking to the left."""
    fur = COLOURS[duck["colour"]]
    for x in (-2, 7):
        pen.line([(x, -8), (x, -1), (x - 4, -1)], (240, 150, 30), 2)
    pen.polygon([(14, -22), (27, -31), (22, -14)], fur)
    pen.ellipse(3, -17, 19, 11.5, fur)
    if duck["pattern"] == "spotted":
        _dots(pen, fur, ((0, -12), (8, -11), (16, -14), (2, -24), (11, -24)), 2.3)
    pen.ellipse(7, -18 + rng.uniform(-0.5, 0.5), 9.5, 5.6, shade(fur, 0.8) if sum(fur) > 160 else shade(fur, 1.2))
    pen.ellipse(-10, -37, 9.5, 9, fur)
    pen.polygon([(-10, -33), (-16, -16), (-2, -18)], fur)
    pen.polygon([(-18, -39.5), (-29, -35), (-18, -32)], (244, 160, 30))
    colour = COLOURS.get(duck["mark_colour"], fur)
    if duck["mark"] == "eye patch":
        pen.ellipse(-12.5, -39, 5.6, 5.6, colour)
    elif duck["mark"] == "blaze":
        pen.chord(-10, -37, 9.5, 9, 200, 340, colour)
    elif duck["mark"] == "chest diamond":
        _diamond(pen, -8, -19, colour)
    pen.ellipse(-12.5, -39, 2.1, 2.1, (250, 250, 250))
    pen.ellipse(-12.8, -39, 1.3, 1.4, INK)
    trim = COLOURS.get(duck["extra_colour"], fur)
    if duck["extra"] == "bandana":
        pen.polygon([(-18, -30.5), (-2, -30.5), (-1, -26), (-9, -22), (-17, -26)], trim)
    elif duck["extra"] == "bow":
        _bow(pen, -4, -45, trim)


def _pattern(
    pen: Pen,
    thing: Subject,
    colour: Colour,
    box: tuple[float, float, float, float],
    dots: tuple[tuple[float, float], ...],
) -> None:
    if thing["pattern"] == "striped":
        x0, y, x1, bottom = box
        while y < bottom:
            pen.box(x0, y, x1, min(y + 4, bottom), contrast(colour))
            y += 8
    elif thing["pattern"] == "dotted":
        _dots(pen, colour, dots)


def _dots(pen: Pen, colour: Colour, dots: tuple[tuple[float, float], ...], radius: float = 2.5) -> None:
    for x, y in dots:
        pen.ellipse(x, y, radius, radius, contrast(colour))


def _decoration(
    pen: Pen, thing: Subject, x: float, y: float, band: tuple[float, float, float, float], tag: tuple[float, float]
) -> None:
    """Draw an object's unseen details: an emblem at (x, y), a band in a box, or a tag that hangs from a point."""
    trim = COLOURS.get(thing["extra_colour"], INK)
    if thing["extra"] == "band":
        pen.box(*band, trim)
    elif thing["extra"] == "tag":
        pen.line([tag, (tag[0] + 5, tag[1] + 6)], INK, 1)
        pen.box(tag[0] + 1.5, tag[1] + 5, tag[0] + 9.5, tag[1] + 17, trim, radius=1)
    colour = COLOURS.get(thing["mark_colour"], INK)
    if thing["mark"] == "star":
        pen.star(x, y, 9.5, colour)
    elif thing["mark"] == "square":
        pen.box(x - 7, y - 7, x + 7, y + 7, colour)
    elif thing["mark"] == "ring":
        pen.ring(x, y, 8, 8, colour, 3.4)


def _sitting_body(pen: Pen, animal: Subject, fur: Colour) -> None:
    pen.ellipse(0, -12, 14.5, 15.5, fur)
    for side in (-1, 1):
        pen.ellipse(side * 6, -2, 5, 3.2, shade(fur, 1.3))
    if animal["pattern"] == "spotted":
        _dots(pen, fur, ((-10, -10), (-9.5, -17), (9.5, -17), (10, -10)), 2.4)
        _dots(pen, fur, ((-6.5, -5.5), (6.5, -5.5)), 1.9)


def _animal_face(pen: Pen, animal: Subject, eyes: float, iris: Colour) -> None:
    colour = COLOURS.get(animal["mark_colour"], iris)
    if animal["mark"] == "eye patch":
        pen.ellipse(5.4, eyes, 5.8, 5.6, colour)
    elif animal["mark"] == "blaze":
        pen.polygon([(-2.6, eyes - 9), (2.6, eyes - 9), (1.6, eyes + 3.4), (-1.6, eyes + 3.4)], colour)
    elif animal["mark"] == "chest diamond":
        _diamond(pen, 0, -12, colour)
    for side in (-1, 1):
        pen.ellipse(side * 5.4, eyes, 2.6, 2.4, iris)
        pen.ellipse(side * 5.4, eyes, 1.3, 1.9, INK)
    trim = COLOURS.get(animal["extra_colour"], iris)
    if animal["extra"] == "bandana":
        pen.polygon([(-10.5, -24.5), (10.5, -24.5), (0, -13.5)], trim)
    elif animal["extra"] == "bow":
        _bow(pen, 9, eyes - 9, trim)


def _diamond(pen: Pen, x: float, y: float, colour: Colour) -> None:
    pen.polygon([(x - 5.4, y), (x, y - 7), (x + 5.4, y), (x, y + 7)], colour)


def _bow(pen: Pen, x: float, y: float, colour: Colour) -> None:
    for side in (-1, 1):
        pen.polygon([(x, y), (x + side * 8, y - 5), (x + side * 8, y + 5)], colour)
    pen.ellipse(x, y, 2, 2, shade(colour, 0.7))
