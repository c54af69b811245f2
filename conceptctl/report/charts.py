"""Charts as SVG that stands in a page: drawn by matplotlib, coloured by the page's style sheet, light or dark.

What differs between a light and a dark page is left to the page: every colour is a variable of its style sheet, and
text stays text in the page's own font. The same chart is the same bytes every time.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from conceptctl.report.content import Chart, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 5.4, 3.0
"""Of every chart, in inches: all are shown at one size, so that their type is of one size."""
TYPE = 10.0
"""Points; the page shows a chart at its natural width."""
LOOKS = (
    ("#0b62a4", "#6cb6ff"), ("#c2410c", "#fb923c"), ("#0f766e", "#2dd4bf"), ("#a21caf", "#e879f9"),
    ("#7a5901", "#facc15"), ("#4d7c0f", "#a3e635"), ("#be123c", "#fb7185"), ("#4338ca", "#a5b4fc"),
)  # fmt: skip
"""Each line's colour on a light and on a dark page: people who confuse red and green tell them apart."""
COLOURS = len(LOOKS)
"""Series that can be told apart by colour, dashes and marks; where there are more, all but the main ones look alike."""
MOST_NAMES, LETTERS = 12, 45
"""What fits below a chart: so many names, and so many letters of them on one line."""
_DASHES = ("-", "--", ":", "-.", (0, (6, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2, 2, 2)))
_MARKS = "osD^vPX*"
# Colours that stand for variables of the page's style sheet: matplotlib must be given some colour.
_INK, _SOFT, _EDGE = "#010101", "#020202", "#030303"
_LINES = tuple(f"#0400{number:02x}" for number in range(COLOURS))
_VARIABLES: Mapping[str, str] = {
    _INK: "--ink",
    _SOFT: "--soft",
    _EDGE: "--edge",
    **{colour: f"--line{number}" for number, colour in enumerate(_LINES)},
}


def draw(chart: Chart) -> str:
    """Draw a chart as SVG, to stand inside HTML.

    Args:
        chart: Lines with bands, points or bars with error bars.
    """
    import matplotlib
    from matplotlib.figure import Figure

    # It may say that it keeps what it found of fonts in a folder of its own: nobody asked.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with matplotlib.rc_context():
        # Not as somebody's own settings have it.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_settings(chart.title))
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        for number, series in enumerate(chart.series):
            _DRAWN[chart.kind](axes, series, _style(number, series, chart.series), number, len(chart.series))
        _label(axes, chart)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata=_NOTHING)
    return _in_a_page(stream.getvalue(), f"{chart.title}: {chart.y_label} over {chart.x_label}")


_NOTHING: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def _settings(salt: str) -> Any:
    return {
        # A dollar sign is one.
        "text.parse_math": False,
        # Names inside the file are digests: of another salt in each chart, so that two on a page do not meet.
        "svg.hashsalt": salt,
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": TYPE,
        "axes.labelsize": TYPE,
        "xtick.labelsize": TYPE,
        "ytick.labelsize": TYPE,
        "legend.fontsize": TYPE,
        "text.color": _INK,
        "axes.labelcolor": _SOFT,
        "xtick.color": _SOFT,
        "ytick.color": _SOFT,
        "axes.edgecolor": _EDGE,
        "grid.color": _EDGE,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.markersize": 4,
    }


def _style(number: int, series: Series, every: Sequence[Series]) -> dict[str, Any]:
    if series.main:
        return {"color": _INK, "linewidth": 2.4, "marker": "o", "linestyle": "-", "zorder": 4}
    others = [each for each in every if not each.main]
    if len(others) > COLOURS:
        return {"color": _SOFT, "linewidth": 0.8, "marker": ".", "linestyle": "-", "zorder": 2}
    place = others.index(series)
    return {
        "color": _LINES[place], "linewidth": 1.5, "marker": _MARKS[place], "linestyle": _DASHES[place], "zorder": 3,
    }  # fmt: skip


def _lines(axes: Axes, series: Series, style: Mapping[str, Any], number: int, count: int) -> None:
    x, y = ([point[part] for point in series.points] for part in (0, 1))
    axes.plot(x, y, label=series.label, **style)
    if series.error:
        low, high = ([value + sign * part for value, part in zip(y, series.error, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)


def _points(axes: Axes, series: Series, style: Mapping[str, Any], number: int, count: int) -> None:
    x, y = ([point[part] for point in series.points] for part in (0, 1))
    # What stands side by side is not joined.
    axes.errorbar(x, y, yerr=series.error or None, label=series.label, capsize=3, **{**style, "linestyle": "none"})


def _bars(axes: Axes, series: Series, style: Mapping[str, Any], number: int, count: int) -> None:
    wide = 0.7 / count
    x = [place + (number - (count - 1) / 2) * wide for place, _ in series.points]
    y = [value for _, value in series.points]
    error: dict[str, Any] = {"yerr": series.error, "ecolor": _INK, "capsize": 3} if series.error else {}
    axes.bar(x, y, wide * 0.9, label=series.label, color=style["color"], **error)


_DRAWN = {"lines": _lines, "points": _points, "bars": _bars}


def _label(axes: Axes, chart: Chart) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.grid(axis="y", linewidth=0.6)
    axes.set_axisbelow(True)
    if all(y >= 0 for each in chart.series for _, y in each.points):
        axes.set_ylim(bottom=0)
    if chart.names:
        # As many names as there is room for; long ones stand aslant.
        places = range(0, len(chart.names), -(-len(chart.names) // MOST_NAMES))
        aslant: dict[str, Any] = {"rotation": 35, "ha": "right"} if sum(map(len, chart.names)) > LETTERS else {}
        axes.set_xticks(places, [chart.names[place] for place in places], **aslant)
        axes.set_xlim(-0.6, len(chart.names) - 0.4)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _in_a_page(svg: str, described: str) -> str:
    """Make a part of a page of a file: no header, no names that nothing refers to, the page's colours and font."""
    from markupsafe import escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    referred = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found.group() if found.group(1) in referred else "", svg)
    svg = re.sub(r"#0[0-9a-f]{5}\b", _variable, svg)
    svg = re.sub(r"(font(?:-family)?): [^;\"]*sans-serif[^;\"]*", _page_font, svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(described)}" ', 1).strip()


def _variable(found: re.Match[str]) -> str:
    colour = found.group()
    return f"var({_VARIABLES[colour]})" if colour in _VARIABLES else colour


def _page_font(found: re.Match[str]) -> str:
    if found.group(1) == "font-family":
        return "font-family: inherit"
    size = re.search(r"[\d.]+px", found.group())
    return f"font-size: {size.group() if size else '10px'}; font-family: inherit"


def legend(chart: Chart) -> tuple[tuple[str, str], ...]:
    """Return the series of a chart with the variable of each one's colour; nothing where one needs no name."""
    if len(chart.series) < 2:
        return ()
    found: dict[str, str] = {}
    for number, series in enumerate(chart.series):
        colour = _VARIABLES[_style(number, series, chart.series)["color"]]
        found.setdefault(colour, "each concept" if colour == _VARIABLES[_SOFT] else series.label)
    return tuple((label, colour) for colour, label in found.items())
