"""Draws the training curves of the bundled base from the logs of its stages.

    python benchmarks/pocket_curves.py WORKSPACE docs/images/pocket/curves.svg

One panel for each network that has a log there: its held-out measure over the samples that it has seen.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

WIDTH, HEIGHT, MARGIN = 420, 220, 48
PANELS = (("vae", "psnr", "dB"), ("clip", "retrieval", ""), ("judge", "right", ""), ("unet", "heldout", ""))


def panel(name: str, measure: str, unit: str, log: Path) -> str:
    """Draw one curve as SVG."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    points: list[tuple[int, float]] = []
    before = last = 0
    for line in lines:
        if line["samples"] < last / 2:
            # With its learning rate risen anew a stage counts from nothing; after a kill, from its last checkpoint.
            before += last
        last = line["samples"]
        points.append((before + last, line["measures"][measure]))
    right, low, high = points[-1][0], min(y for _, y in points), max(y for _, y in points)
    spread = (high - low) or 1.0

    def place(x: float, y: float) -> str:
        across = MARGIN + x / right * (WIDTH - 2 * MARGIN)
        down = HEIGHT - MARGIN - (y - low) / spread * (HEIGHT - 2 * MARGIN)
        return f"{across:.1f},{down:.1f}"

    curve = " ".join(place(x, y) for x, y in points)
    return "\n".join(
        [
            f'<text x="{MARGIN}" y="24" class="title">{name}: {measure} {unit}</text>',
            f'<line x1="{MARGIN}" y1="{HEIGHT - MARGIN}" x2="{WIDTH - MARGIN}" y2="{HEIGHT - MARGIN}"/>',
            f'<line x1="{MARGIN}" y1="{MARGIN}" x2="{MARGIN}" y2="{HEIGHT - MARGIN}"/>',
            f'<polyline points="{curve}"/>',
            f'<text x="{MARGIN - 4}" y="{HEIGHT - MARGIN}" text-anchor="end">{low:.3g}</text>',
            f'<text x="{MARGIN - 4}" y="{MARGIN + 4}" text-anchor="end">{high:.3g}</text>',
            f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - MARGIN + 16}" text-anchor="end">{right:,} samples</text>',
            f'<text x="{WIDTH - MARGIN}" y="{MARGIN - 6}" text-anchor="end">now {points[-1][1]:.3g}</text>',
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    panels = []
    found = [each for each in PANELS if (options.workspace / f"{each[0]}.jsonl").exists()]
    if not found:
        parser.error(f"no stage has left a log in {options.workspace}")
    for index, (name, measure, unit) in enumerate(found):
        x, y = index % 2 * WIDTH, index // 2 * HEIGHT
        drawn = panel(name, measure, unit, options.workspace / f"{name}.jsonl")
        panels.append(f'<g transform="translate({x},{y})">\n{drawn}\n</g>')
    style = (
        "text{font:11px sans-serif;fill:#444}.title{font-weight:bold}"
        "line{stroke:#999}polyline{fill:none;stroke:#2c56cc;stroke-width:1.6}"
    )
    size = f'width="{min(2, len(found)) * WIDTH}" height="{-(-len(found) // 2) * HEIGHT}"'
    body = "\n".join(panels)
    options.target.parent.mkdir(parents=True, exist_ok=True)
    options.target.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<rect {size} fill="white"/>\n'
        f"<style>{style}</style>\n{body}\n</svg>\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
