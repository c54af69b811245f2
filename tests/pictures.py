"""Folders of generated pictures, as a user would have them."""

from pathlib import Path

from PIL import Image, ImageDraw


def write_pictures(folder: Path, count: int = 4, side: int = 32) -> Path:
    """Write pictures of one red square on changing grounds."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        picture = Image.new("RGB", (side, side), (40 * index % 256, 120, 255 - 30 * index))
        pen = ImageDraw.Draw(picture)
        pen.rectangle((side // 4, side // 4, side // 2 + index, side // 2), fill=(200, 20, 20))
        picture.save(folder / f"{index}.png")
    return folder
