"""How alike pictures of one thing are, between those of different things, 0, and one picture again and again, 1.

    python benchmarks/coherence.py

What `learn` warns by (`LEAST` in conceptctl/workflows/learn/picture_texts.py), on the bundled base: three concepts of
each kind with twelve and with five pictures, of one kind thirty different subjects, and thirty different things.
"""

from __future__ import annotations

import judged
from PIL import Image

from conceptctl import families, pocket
from conceptctl.metrics.coherence import coherence, similarity
from conceptctl.metrics.features import load_extractor
from conceptctl.pocket.world.concepts import concept
from conceptctl.presets import shipped
from conceptctl.workflows.learn.coherence import DIFFERENT, PROMPT
from conceptctl.workflows.learn.picture_texts import LEAST

KINDS = shipped()["pocket"].learn.classes
SEEDS = (71, 72, 73)
OTHERS = 30


def main() -> None:
    extractor = load_extractor(pocket.clip_folder(), "pocket", judged.CPU)
    folder = pocket.base_folder()
    backbone = families.recognized(folder).load(folder, judged.CPU)
    different = similarity(extractor.images(judged.draw(backbone, PROMPT, DIFFERENT)))
    print(f"drawn of {PROMPT!r}: similarity {different:.3f}; a warning below {LEAST}\n")

    def of(pictures: list[Image.Image]) -> str:
        return f"{coherence(extractor.images(pictures), different):5.2f}"

    print("| | 12 pictures | 5 | 30 others of the kind |\n|---|---|---|---|")
    for kind in KINDS:
        views = [[concept(kind, seed).training_view(index) for index in range(12)] for seed in SEEDS]
        others = [concept(kind, 9_000_000 + index).training_view(0) for index in range(OTHERS)]
        print(f"| {kind} | {', '.join(map(of, views))} | {', '.join(of(each[:5]) for each in views)} | {of(others)} |")
    for first in (555_000, 556_000):
        mixed = [concept(KINDS[index % len(KINDS)], first + index).training_view(0) for index in range(OTHERS)]
        print(f"thirty different things (from {first}): {of(mixed)}")


if __name__ == "__main__":
    main()
