"""Draws docs/images/pocket/classification.svg from what `conceptctl bench run classification` left.

python docs/scripts/accuracy_figure.py DIR docs/images/pocket/classification.svg

It is the chart of `bench report` on a white ground, with its legend: a page of Markdown has no style sheet.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from conceptctl.report.charts import LOOKS, draw, legend
from conceptctl.report.classification import accuracy_chart
from conceptctl.workflows.bench import results

COLOURS = {
    "--ink": "#1b1f24", "--soft": "#57606a", "--edge": "#d0d7de",
    **{f"--line{number}": light for number, (light, _) in enumerate(LOOKS)},
}  # fmt: skip
COLUMNS, COLUMN, ROW = 4, 86, 14
LEFT = 43


def figure(folder: Path) -> str:
    """The chart of the one spec whose cells lie in a folder of `bench run`, as a file of its own."""
    rows = results.read_all(folder)[0].class_rows
    runs = {row.label: [result.figures.average_accuracy for result in row.results] for row in rows}
    # Joint training learns once: there is nothing over tasks.
    chart = accuracy_chart({label: found for label, found in runs.items() if len(found[0]) > 1}, "stamina")
    # In the units of its own view box, not in points.
    drawn = draw(chart).replace('pt"', '"')
    width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn).groups())
    names = legend(chart)
    whole = height + ROW * (1 + -(-len(names) // COLUMNS))
    lines = []
    for number, (label, colour) in enumerate(names):
        x, y = LEFT + COLUMN * (number % COLUMNS), height + ROW * (1 + number // COLUMNS)
        lines += [
            f'<line x1="{x}" y1="{y - 3}" x2="{x + 14}" y2="{y - 3}" stroke="var({colour})" stroke-width="2"/>',
            f'<text x="{x + 18}" y="{y}" font-size="9" fill="var(--ink)">{label}</text>',
        ]
    page = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" font-family="sans-serif" '
        f'width="{2 * width}" height="{2 * whole}" viewBox="0 0 {width} {whole}">'
        f'<rect width="{width}" height="{whole}" fill="#ffffff"/>{drawn}{"".join(lines)}</svg>\n'
    )
    page = page.replace("font-family: inherit", "font-family: sans-serif")
    return re.sub(r"var\((--\w+)\)", lambda found: COLOURS[found.group(1)], page)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(figure(Path(sys.argv[1])), encoding="utf-8")
