"""How a person is drawn: head and shoulders, facing the viewer."""

from __future__ import annotations

import random

from conceptctl.pocket.world.kinds import COLOURS, NONE, Colour, Subject
from conceptctl.pocket.world.pen import Pen, contrast, shade

EXPRESSIONS = ("neutral", "smile", "open")
_SHIRT_DOTS = ((-14, -2), (-5.5, -7), (5.5, -7), (14, -2), (-9, 4), (0, 0.5), (9, 4))
HEAD_Y = -34.0
HEAD_RX = 11.5
HEAD_RY = 13.5
_CHEST_Y = 5.0
_HEAD_SIZE = 1.2
"""Heads are drawn larger than life: a face must show what tells two people apart in a few pixels."""


def draw_person(pen: Pen, person: Subject, rng: random.Random) -> None:
    """Draw a person; the expression varies from picture to picture."""
    skin = COLOURS[person["skin"]]
    hair = COLOURS[person["hair_colour"]]
    # Everything above the neck is given in units of a head, around a neck at y = -16.
    head = pen.magnified(0, -16 + 20 * _HEAD_SIZE, _HEAD_SIZE)
    if person["hair"] == "long":
        head.ellipse(0, HEAD_Y, 15.5, 17, hair)
        head.box(-15.5, HEAD_Y, 15.5, -14, hair, radius=4)
    elif person["hair"] == "curly":
        for x, y in ((-12, -30), (12, -30), (-13, -38), (13, -38)):
            head.ellipse(x, y, 5.5, 5.5, hair)
    pen.box(-5.5, -24, 5.5, -8, shade(skin, 0.86))
    _shirt(pen, person)
    for side in (-1, 1):
        head.ellipse(side * HEAD_RX, -33, 2.6, 3.6, shade(skin, 0.92))
    if person["extra"] == "elf ears":
        _elf_ears(head, COLOURS[person["extra_colour"]])
    head.ellipse(0, HEAD_Y, HEAD_RX, HEAD_RY, skin)
    _face(head, person, skin, rng)
    _hair(head, person["hair"], hair)
    _glasses(head, person["glasses"])
    _hat(head, person)
    if person["extra"] == "scarf":
        _scarf(pen, COLOURS[person["extra_colour"]])


def _shirt(pen: Pen, person: Subject) -> None:
    colour = COLOURS[person["shirt_colour"]]
    pen.ellipse(0, _CHEST_Y, 23, 18, colour)
    # Someone who stands behind another is seen below the chest: the shirt goes on to the picture's edge.
    pen.box(-23, _CHEST_Y, 23, 34, colour)
    if person["shirt_pattern"] == "striped":
        pen.striped_ellipse(0, _CHEST_Y, 23, 18, contrast(colour), 6.4)
        for index in range(5):
            top = _CHEST_Y + 1.2 + 6.4 * index
            pen.box(-23, top, 23, top + 3.2, contrast(colour))
    elif person["shirt_pattern"] == "dotted":
        for x, y in (*_SHIRT_DOTS, (-15, 10), (0, 10), (15, 10)):
            pen.ellipse(x, y, 2.2, 2.2, contrast(colour))
    pen.chord(0, -13.5, 7.5, 6, 0, 180, shade(COLOURS[person["skin"]], 0.86))


def _face(pen: Pen, person: Subject, skin: Colour, rng: random.Random) -> None:
    if person["beard"] != NONE:
        beard = (70, 52, 44) if person["hair"] == "bald" else shade(COLOURS[person["hair_colour"]], 0.8)
        pen.chord(0, HEAD_Y, HEAD_RX, HEAD_RY, 12, 168, beard)
        pen.ellipse(0, -32.5, 6.5, 3.5, skin)
    for side in (-1, 1):
        pen.ellipse(side * 4.6, -35.5, 2.5, 2.1, (250, 250, 250))
        pen.ellipse(side * 4.6, -35.5, 1.6, 1.8, (36, 28, 28))
    pen.ellipse(0, -31, 1.5, 1.2, shade(skin, 0.78))
    expression = rng.choice(EXPRESSIONS)
    if expression == "neutral":
        pen.line([(-3.2, -26), (3.2, -26)], (150, 50, 50), 1.7)
    elif expression == "smile":
        pen.arc(0, -28.6, 4.4, 3.6, 20, 160, (150, 50, 50), 1.7)
    else:
        pen.ellipse(0, -26, 2.6, 2.2, (130, 36, 40))
    _mark(pen, person)


def _mark(pen: Pen, person: Subject) -> None:
    if person["mark"] == NONE:
        return
    colour = COLOURS[person["mark_colour"]]
    if person["mark"] == "cheek spot":
        pen.ellipse(7.2, -28.2, 3.4, 3.4, colour)
    elif person["mark"] == "nose stripe":
        pen.box(-9.6, -33.6, 9.6, -28.4, colour, radius=1.2)
    else:
        for side in (-1, 1):
            pen.box(side * 6.2 - 2.5, -32.2, side * 6.2 + 2.5, -24, colour, radius=2.4)


def _hair(pen: Pen, style: str, hair: Colour) -> None:
    if style == "bald":
        return
    if style == "curly":
        for x, y in ((-10, -42), (-5, -46.5), (1, -48), (6, -46), (10.5, -41.5)):
            pen.ellipse(x, y, 5, 5, hair)
        return
    pen.chord(0, HEAD_Y - 0.6, HEAD_RX + 0.9, HEAD_RY + 1.2, 208, 332, hair)
    if style == "long":
        for side in (-1, 1):
            pen.polygon([(side * 8.5, -43), (side * 13.5, -40), (side * 14, -20), (side * 10.6, -22)], hair)


def _glasses(pen: Pen, glasses: str) -> None:
    if glasses == NONE:
        return
    ink = (24, 24, 30)
    for side in (-1, 1):
        if glasses == "sunglasses":
            pen.ellipse(side * 4.8, -35.2, 4.3, 3.7, ink)
        else:
            pen.ring(side * 4.8, -35.2, 4.7, 4.3, ink, 1.6)
        pen.line([(side * 9, -36), (side * HEAD_RX, -36.6)], ink, 1.6)
    pen.line([(-1, -36), (1, -36)], ink, 1.6)


def _hat(pen: Pen, person: Subject) -> None:
    if person["hat"] == NONE:
        return
    colour = COLOURS[person["hat_colour"]]
    if person["hat"] == "cap":
        pen.chord(0, -41, 12.8, 11, 180, 360, colour)
        pen.box(-13, -42.6, 19, -39.6, shade(colour, 0.78), radius=1.4)
    else:
        pen.chord(0, -40, 12.9, 15, 180, 360, colour)
        pen.box(-13.6, -43.4, 13.6, -38.8, shade(colour, 1.35), radius=2)
        pen.ellipse(0, -56, 3.2, 3.2, shade(colour, 1.35))


def _elf_ears(pen: Pen, colour: Colour) -> None:
    for side in (-1, 1):
        pen.polygon([(side * 8, -41), (side * 23, -48), (side * 9, -25)], colour)


def _scarf(pen: Pen, colour: Colour) -> None:
    pen.box(-12, -16.6, 12, -9, colour, radius=3)
    pen.box(3, -13, 10, 4, shade(colour, 0.84), radius=1.2)
