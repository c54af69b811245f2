"""Puts the README's picture together from the contact sheets of `make demo` in docs/images/demo.

`python docs/scripts/picture.py` writes docs/images/demo.png: a few pictures of each, four times as large, every pixel
still a square.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

IMAGES = Path(__file__).resolve().parents[1] / "images"
SHEETS = {
    "alice": "a photo of a V*alice",
    "falls": "a photo of a V*falls",
    "both": "a photo of V*alice next to V*falls",
}
SIDE = 64
"""Of one picture on a contact sheet."""
LARGER = 3
ACROSS, DOWN = 2, 2
"""How many pictures of each sheet are shown."""
GAP, HEAD = 16, 34
PAPER, INK = (255, 255, 255), (30, 30, 30)
COLOURS = 96
"""So few that the file stays small; nobody sees the difference."""


def main() -> None:
    """Write the picture."""
    width, height = ACROSS * SIDE * LARGER, DOWN * SIDE * LARGER
    whole = Image.new("RGB", (len(SHEETS) * (width + GAP) - GAP, height + HEAD), PAPER)
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(20)
    for column, (name, prompt) in enumerate(SHEETS.items()):
        left = column * (width + GAP)
        shown = Image.open(IMAGES / "demo" / f"{name}.png").convert("RGB").crop((0, 0, ACROSS * SIDE, DOWN * SIDE))
        whole.paste(shown.resize((width, height), Image.Resampling.NEAREST), (left, HEAD))
        pen.text((left + width / 2, HEAD / 2), prompt, INK, font, anchor="mm")
    few = whole.quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(IMAGES / "demo.png", optimize=True)


if __name__ == "__main__":
    main()
