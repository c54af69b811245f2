"""A pen that draws in a subject's own coordinates.

One unit is one pixel of the finished picture at scale 1; the origin is the subject's foot, y points down,
so that a subject's parts have negative y.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from conceptctl.pocket.world.kinds import Colour
from conceptctl.pocket.world.practice import SUPERSAMPLE
from conceptctl.pocket.world.scenes import Spot

Point = tuple[float, float]


class Pen:
    """Draws on a large picture, placed and scaled for one subject."""

    def __init__(self, image: Image.Image, spot: Spot) -> None:
        self._draw = ImageDraw.Draw(image)
        self._x = spot.x * SUPERSAMPLE
        self._y = spot.y * SUPERSAMPLE
        self._scale = spot.scale * SUPERSAMPLE

    def magnified(self, x: float, y: float, factor: float) -> Pen:
        """A pen whose origin is at (x, y) of this one, and whose units are `factor` times as large."""
        pen = copy.copy(self)
        pen._x, pen._y = self._at(x, y)
        pen._scale = self._scale * factor
        return pen

    def _at(self, x: float, y: float) -> Point:
        return self._x + x * self._scale, self._y + y * self._scale

    def _box(self, x: float, y: float, rx: float, ry: float) -> tuple[float, float, float, float]:
        return (*self._at(x - rx, y - ry), *self._at(x + rx, y + ry))

    def _width(self, width: float) -> int:
        return max(1, round(width * self._scale))

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        """Fill an ellipse around (x, y)."""
        self._draw.ellipse(self._box(x, y, rx, ry), fill=fill)

    def ring(self, x: float, y: float, rx: float, ry: float, colour: Colour, width: float) -> None:
        """Draw the outline of an ellipse; `width` goes inwards."""
        self._draw.ellipse(self._box(x, y, rx, ry), outline=colour, width=self._width(width))

    def chord(self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill: Colour) -> None:
        """Fill the part of an ellipse between two angles (degrees, clockwise from the right) and their chord."""
        self._draw.chord(self._box(x, y, rx, ry), start, end, fill=fill)

    def arc(
        self, x: float, y: float, rx: float, ry: float, start: float, end: float, colour: Colour, width: float
    ) -> None:
        """Draw a part of the outline of an ellipse."""
        self._draw.arc(self._box(x, y, rx, ry), start, end, fill=colour, width=self._width(width))

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, radius: float = 0) -> None:
        """Fill a rectangle, its corners rounded by `radius`."""
        corners = (*self._at(x0, y0), *self._at(x1, y1))
        if radius:
            self._draw.rounded_rectangle(corners, radius * self._scale, fill=fill)
        else:
            self._draw.rectangle(corners, fill=fill)

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        """Fill a polygon."""
        self._draw.polygon([self._at(x, y) for x, y in points], fill=fill)

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        """Draw connected lines."""
        self._draw.line([self._at(x, y) for x, y in points], fill=colour, width=self._width(width), joint="curve")

    def star(self, x: float, y: float, radius: float, fill: Colour) -> None:
        """Fill a five-pointed star around (x, y)."""
        points = []
        for index in range(10):
            reach = radius if index % 2 == 0 else radius * 0.45
            angle = math.pi * (index / 5 - 0.5)
            points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
        self.polygon(points, fill)

    def striped_ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour, pitch: float) -> None:
        """Lay level stripes over an ellipse, one every `pitch`, each half a pitch high."""
        top = y - ry + pitch * 0.6
        while top < y + ry:
            self._stripe(x, y, rx, ry, top, min(top + pitch / 2, y + ry), fill)
            top += pitch

    def _stripe(self, x: float, y: float, rx: float, ry: float, top: float, bottom: float, fill: Colour) -> None:
        upper = rx * math.sqrt(max(0.0, 1 - ((top - y) / ry) ** 2))
        lower = rx * math.sqrt(max(0.0, 1 - ((bottom - y) / ry) ** 2))
        self.polygon([(x - upper, top), (x + upper, top), (x + lower, bottom), (x - lower, bottom)], fill)


def shade(colour: Colour, factor: float) -> Colour:
    """Make a colour darker (factor below 1) or lighter (above 1)."""
    if factor <= 1:
        return (int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor))
    mix = factor - 1
    return (
        int(colour[0] + (255 - colour[0]) * mix),
        int(colour[1] + (255 - colour[1]) * mix),
        int(colour[2] + (255 - colour[2]) * mix),
    )


def contrast(colour: Colour) -> Colour:
    """The colour of stripes and dots on a ground: dark on light grounds, light on dark ones."""
    luminance = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]
    return (40, 40, 60) if luminance > 150 else (244, 240, 226)
