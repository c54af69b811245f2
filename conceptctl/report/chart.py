"""Line charts as SVG that stands in the page: light and dark by its style sheet, with the numbers as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from conceptctl.report.content import Chart, Line

WIDTH, HEIGHT = 640, 280
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 46
COLOURS = 8
"""Lines that can be told apart by colour and dashes; where there are more, all but the main ones look alike."""
MOST_TICKS = 8


@dataclass(frozen=True)
class Axis:
    """Numbers from `low` to `high` along so many pixels."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Return where a number lies, 0 to 1."""
        return (value - self.low) / (self.high - self.low)


def axis(values: Sequence[float], *, whole: bool = False, from_zero: bool = False) -> Axis:
    """Choose an axis with round ticks that holds all values.

    Args:
        values: At least one.
        whole: Only ticks that are whole numbers.
        from_zero: Make 0 a part of it.
    """
    low, high = min(values), max(values)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        low, high = (low - 1, high + 1) if whole else (low - abs(low or 1) / 2, high + abs(high or 1) / 2)
        low = max(low, 0.0) if from_zero else low
    step = _round_step((high - low) / MOST_TICKS)
    if whole:
        step = max(1.0, step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(step * number for number in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2, 5 x 10^n that is not less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def figure(chart: Chart) -> str:
    """Draw a chart as an HTML figure."""
    lines = [line for line in chart.lines if line.points]
    if not lines:
        return ""
    return (
        f'<figure class="chart"><figcaption><h3>{escape(chart.title)}</h3><p>{escape(chart.text)}</p></figcaption>'
        f"{_svg(chart, lines)}{_legend(lines)}{_numbers(chart, lines)}</figure>"
    )


def _svg(chart: Chart, lines: list[Line]) -> str:
    points = [point for line in lines for point in line.points]
    across = axis([x for x, _ in points], whole=True)
    up = axis([y for _, y in points], from_zero=True)
    described = escape(f"{chart.title}: {chart.y_label} over {chart.x_label}; the numbers are in the table below")
    # The main line is drawn last, over the others.
    drawn = sorted(enumerate(lines), key=lambda pair: pair[1].main)
    return "".join(
        [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{described}">',
            *(_level(up, tick) for tick in up.ticks),
            *(_mark(across, tick) for tick in across.ticks),
            f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 6}" text-anchor="middle">'
            f"{escape(chart.x_label)}</text>",
            f'<text class="label" transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2:g}) rotate(-90)" '
            f'text-anchor="middle">{escape(chart.y_label)}</text>',
            *(_line(line, _style(number, line, lines), across, up) for number, line in drawn),
            "</svg>",
        ]
    )


def _x(across: Axis, value: float) -> float:
    return round(LEFT + across.place(value) * (WIDTH - LEFT - RIGHT), 1)


def _y(up: Axis, value: float) -> float:
    return round(HEIGHT - BOTTOM - up.place(value) * (HEIGHT - TOP - BOTTOM), 1)


def _level(up: Axis, tick: float) -> str:
    y = _y(up, tick)
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        f'<text x="{LEFT - 8}" y="{y + 4:g}" text-anchor="end">{tick:.6g}</text>'
    )


def _mark(across: Axis, tick: float) -> str:
    return f'<text x="{_x(across, tick)}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:.6g}</text>'


def _line(line: Line, style: str, across: Axis, up: Axis) -> str:
    places = [(_x(across, x), _y(up, y)) for x, y in line.points]
    path = " ".join(f"{x},{y}" for x, y in places)
    dots = "".join(
        f'<circle class="{style}" cx="{left}" cy="{top}" r="{4 if line.main else 3}">'
        f"<title>{escape(line.label)}: {x:g}, {y:.4g}</title></circle>"
        for (left, top), (x, y) in zip(places, line.points, strict=True)
    )
    return f'<polyline class="{style}" points="{path}"/>{dots}'


def _style(number: int, line: Line, lines: list[Line]) -> str:
    if line.main:
        return "main"
    others = [each for each in lines if not each.main]
    return "other" if len(others) > COLOURS else f"line{number - sum(each.main for each in lines[:number])}"


def _legend(lines: list[Line]) -> str:
    shown: dict[str, str] = {}
    for number, line in enumerate(lines):
        style = _style(number, line, lines)
        shown.setdefault(style, "each concept" if style == "other" else line.label)
    if len(shown) == 1:
        return ""
    items = "".join(
        f'<li><svg viewBox="0 0 28 8" aria-hidden="true"><polyline class="{style}" points="0,4 28,4"/></svg>'
        f"{escape(label)}</li>"
        for style, label in sorted(shown.items(), key=lambda item: item[0] != "main")
    )
    return f'<ul class="legend">{items}</ul>'


def _numbers(chart: Chart, lines: list[Line]) -> str:
    places = sorted({x for line in lines for x, _ in line.points})
    head = "".join(f'<th scope="col">{escape(line.label)}</th>' for line in lines)
    rows = "".join(
        f'<tr><th scope="row">{x:g}</th>'
        + "".join(f"<td>{dict(line.points)[x]:.4g}</td>" if x in dict(line.points) else "<td></td>" for line in lines)
        + "</tr>"
        for x in places
    )
    return (
        f'<details><summary>The numbers</summary><div class="wide"><table><caption>{escape(chart.title)}</caption>'
        f'<thead><tr><th scope="col">{escape(chart.x_label)}</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
        "</div></details>"
    )
