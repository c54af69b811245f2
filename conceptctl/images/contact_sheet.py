"""Several pictures on one sheet."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image


def contact_sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """Put pictures of one size on a sheet that is about as high as wide."""
    columns = int(len(pictures) ** 0.5 + 0.999)
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * width, index // columns * height))
    return sheet
