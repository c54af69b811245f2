"""What the judge finds in the pictures that `make demo` drew: `make demo`, then `python benchmarks/demo.py`."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import judged
from PIL import Image

from conceptctl import pocket
from conceptctl.pocket.world.concepts import concept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".demo"))
    options = parser.parse_args()
    if not options.folder.is_dir():
        parser.error(f"{options.folder} does not exist; run `make demo` first")
    judge = pocket.load_judge()
    taught = {"alice": concept("person", 0), "falls": concept("waterfall", 0)}
    print("| pictures | show it | attributes right |\n|---|---|---|")
    for name, wanted in {**taught, "both": None}.items():
        files = sorted(path for path in (options.folder / name).glob("*.png") if path.name != "contact-sheet.png")
        pictures = [Image.open(path).convert("RGB") for path in files]
        readings = judged.read(judge, pictures)
        if wanted is not None:
            shown = sum(reading.shows(wanted.subject) for reading in readings)
            right = statistics.mean(ok for _, ok in judged.attributes_right(readings, wanted))
            share = f"{100 * right:.0f} %"
        else:
            shown = sum(reading.shows_all([each.subject for each in taught.values()]) for reading in readings)
            share = ""
        print(f"| {name} | {shown} of {len(readings)} | {share} |")


if __name__ == "__main__":
    main()
