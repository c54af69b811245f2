"""Draws the diagrams of docs/explanation: what STAMINA changes, its masked low-rank delta, and how deltas add up.

`python docs/scripts/diagrams.py` writes them into docs/images/stamina. The grids are drawings, not measurements.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "images/stamina"
INK, SOFT, FRAME, PAPER = "#222222", "#666666", "#999999", "#ffffff"
BLUE, ORANGE, GREEN, PALE = "#0b62a4", "#c2410c", "#0f766e", "#eeeeee"
CELL = 12
Cells = Callable[[int, int], str]


def main() -> None:
    """Write every diagram."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, drawn in {"where": where(), "delta": delta(), "stack": stack()}.items():
        (FOLDER / f"{name}.svg").write_text(drawn, encoding="utf-8")


def where() -> str:
    """Which weights of the model a concept changes."""
    parts = [
        box(10, 70, 150, 50, "prompt", "a photo of a V*alice"),
        arrow(160, 95, 200),
        box(200, 70, 150, 50, "text encoder", "frozen; one new token row", BLUE),
        arrow(350, 95, 390),
        box(390, 40, 170, 44, "key projections", "changed, a little", ORANGE),
        box(390, 106, 170, 44, "value projections", "changed, a little", ORANGE),
        arrow(560, 62, 600),
        arrow(560, 128, 600),
        box(600, 30, 150, 130, "U-Net", "everything else frozen"),
        box(600, 190, 150, 40, "noisy picture", ""),
        f'<path d="M675 190 V164" stroke="{SOFT}" marker-end="url(#head)" fill="none"/>',
        text(475, 22, "cross-attention: where the U-Net reads the prompt", SOFT),
    ]
    return svg(760, 240, parts, "A concept changes its own token and the key and value projections of cross-attention")


def delta() -> str:
    """W = W + (A B) * M."""
    chance = random.Random(1)
    mask = {(row, column): chance.random() < 0.35 for row in range(10) for column in range(10)}
    tall = [chance.random() for _ in range(10)]
    wide = [chance.random() for _ in range(10)]
    parts = [
        grid(20, 50, 10, 10, lambda row, column: shade(GREEN, 0.25 + 0.5 * ((row * 7 + column * 3) % 5) / 5)),
        text(80, 40, "W before", INK),
        text(158, 116, "+", INK, 22),
        text(184, 116, "(", INK, 40),
        grid(196, 50, 10, 2, lambda row, column: shade(ORANGE, tall[(row + column) % 10])),
        text(208, 40, "A", INK),
        grid(232, 98, 2, 10, lambda row, column: shade(ORANGE, wide[(row + column) % 10])),
        text(292, 88, "B", INK),
        text(362, 116, ")", INK, 40),
        text(386, 114, "*", INK, 24),
        grid(404, 50, 10, 10, lambda row, column: INK if mask[row, column] else PAPER),
        text(464, 40, "mask M", INK),
        text(546, 116, "=", INK, 22),
        grid(
            566, 50, 10, 10, lambda row, column: shade(ORANGE, tall[row] * wide[column]) if mask[row, column] else PAPER
        ),
        text(626, 40, "delta of this concept", INK),
        text(80, 190, "D1 x D2, frozen", SOFT),
        text(270, 190, "low rank r: few numbers, all entries", SOFT),
        text(464, 190, "black passes", SOFT),
        text(626, 190, "only where black", SOFT),
    ]
    return svg(720, 205, parts, "W before, plus A times B where the mask passes: the delta of one concept")


def stack() -> str:
    """Deltas of three concepts, one after the other, and their sum."""
    chance = random.Random(4)
    owner = {(row, column): chance.choice([0, 0, 1, 2, 3]) for row in range(10) for column in range(10)}
    colours = {1: BLUE, 2: ORANGE, 3: GREEN}

    def only(number: int) -> Cells:
        return lambda row, column: colours[number] if owner[row, column] == number else PAPER

    parts = []
    for number, name in enumerate(("V*alice", "V*falls", "V*bob"), start=1):
        left = 20 + (number - 1) * 170
        parts += [grid(left, 50, 10, 10, only(number)), text(left + 60, 40, f"delta of {name}", INK)]
        parts.append(text(left + 145, 116, "+" if number < 3 else "=", INK, 22))
    parts += [
        grid(530, 50, 10, 10, lambda row, column: colours.get(owner[row, column], PALE)),
        text(590, 40, "folded into W", INK),
        text(270, 190, "each keeps off what earlier ones changed (the forgetting loss)", SOFT),
        text(590, 190, "as many weights as before", SOFT),
    ]
    return svg(690, 205, parts, "Three deltas on different entries add up to one set of weights")


def svg(width: int, height: int, parts: Iterable[str], title: str) -> str:
    """Return a whole drawing on white paper."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="13" role="img" aria-label="{escape(title)}">'
    )
    marker = (
        f'<defs><marker id="head" markerWidth="8" markerHeight="8" refX="6" refY="4" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{SOFT}"/></marker></defs>'
    )
    return "\n".join([head, marker, f'<rect width="100%" height="100%" fill="{PAPER}"/>', *parts, "</svg>"]) + "\n"


def box(left: int, top: int, width: int, height: int, title: str, below: str, colour: str = FRAME) -> str:
    """A named part of the model."""
    middle, centre = left + width / 2, top + height / 2
    return (
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="6" fill="{PAPER}" stroke="{colour}" '
        f'stroke-width="2"/>'
        + text(middle, centre + (4 if not below else -3), title, INK)
        + (text(middle, centre + 14, below, SOFT, 11) if below else "")
    )


def arrow(left: int, y: int, right: int) -> str:
    """An arrow to the right."""
    return f'<path d="M{left} {y} H{right - 4}" stroke="{SOFT}" marker-end="url(#head)" fill="none"/>'


def text(x: float, y: float, words: str, colour: str, size: int = 13) -> str:
    """A line of text around a place."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="middle" fill="{colour}" font-size="{size}">{escape(words)}</text>'


def grid(left: int, top: int, rows: int, columns: int, colour: Cells) -> str:
    """A matrix: one square an entry."""
    squares = [
        f'<path d="M{left + column * CELL} {top + row * CELL}h{CELL}v{CELL}h-{CELL}z" fill="{colour(row, column)}"/>'
        for row in range(rows)
        for column in range(columns)
    ]
    return f'<g stroke="{FRAME}" stroke-width=".5">{"".join(squares)}</g>'


def shade(colour: str, share: float) -> str:
    """A colour, mixed with white."""
    parts = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return "#" + "".join(f"{round(255 - (255 - part) * (0.15 + 0.85 * share)):02x}" for part in parts)


if __name__ == "__main__":
    main()
