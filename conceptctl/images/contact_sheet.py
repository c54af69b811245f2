"""Several pictures on one sheet, with what they were drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

WIDTH = 512
"""Pixels that a sheet is wide at least: what is smaller is enlarged by a whole number, each pixel to a square."""
LEAST_TYPE = 14
"""Pixels of the smallest type on a sheet."""
MOST_LETTERS = 1000
MOST_LINES = 3
"""Of a prompt; the rest of a longer one is cut off."""
_INK, _PAPER = "#24292f", "white"


def contact_sheet(
    pictures: Sequence[Image.Image], prompt: str = "", labels: Sequence[str] = (), *, columns: int | None = None
) -> Image.Image:
    """Put pictures of one size on a sheet that is about as high as wide.

    Args:
        pictures: At least one.
        prompt: What they were drawn from; stands above them.
        labels: What stands below each, as its seed.
        columns: Pictures in a row.
    """
    columns = columns or int(len(pictures) ** 0.5 + 0.999)
    factor = -(-WIDTH // (columns * pictures[0].width))
    wide, high = (side * factor for side in pictures[0].size)
    font = _font(max(LEAST_TYPE, columns * wide // 64))
    line = _height(font)
    words = _wrapped(prompt, font, columns * wide - line)
    top = line * len(words) + (line // 2 if words else 0)
    high_with_label = high + (line if labels else 0)
    sheet = Image.new("RGB", (columns * wide, top + -(-len(pictures) // columns) * high_with_label), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, text in enumerate(words):
        draw.text((line // 2, line // 4 + index * line), text, _INK, font)
    for index, picture in enumerate(pictures):
        left, down = index % columns * wide, top + index // columns * high_with_label
        sheet.paste(picture.resize((wide, high), Image.Resampling.NEAREST) if factor > 1 else picture, (left, down))
        if index < len(labels):
            draw.text((left + wide / 2, down + high), labels[index], _INK, font, anchor="ma")
    return sheet


def _font(size: int) -> FreeTypeFont | BitmapFont:
    return ImageFont.load_default(size)


def _height(font: FreeTypeFont | BitmapFont) -> int:
    return int(1.5 * font.getbbox("Ag")[3])


def _wrapped(text: str, font: FreeTypeFont | BitmapFont, width: int) -> list[str]:
    """Break a text into lines that fit, between words where there are any; what is over the last line is cut off."""
    lines: list[str] = []
    rest = " ".join(text.split())[:MOST_LETTERS]
    while rest:
        fits = next((end for end in range(len(rest), 1, -1) if font.getlength(rest[:end]) <= width), 1)
        if len(lines) == MOST_LINES - 1 and fits < len(rest):
            return [*lines, rest[: max(1, fits - 1)].rstrip() + "…"]
        if fits < len(rest) and " " in rest[: fits + 1]:
            fits = rest[: fits + 1].rindex(" ")
        lines.append(rest[:fits])
        rest = rest[fits:].lstrip()
    return lines
