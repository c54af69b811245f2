"""Does the similarity of samples that `learn` tells at its end agree with the bundled base's judge?

    conceptctl bench run fifty --cells 'stamina-anchored/*' --output DIR
    python benchmarks/sample_similarity.py DIR

Of every concept of finished cells on the bundled base, as it was drawn just after it was learned: its
samples' similarity to the pictures it was learned from, and the share of pictures that the judge accepts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from functools import cache
from pathlib import Path
from typing import Any

import judged
import torch
from PIL import Image
from safetensors.torch import load_file

from conceptctl import families, pocket
from conceptctl.metrics.coherence import sample_similarity, similarity
from conceptctl.metrics.features import load_extractor
from conceptctl.workflows.learn.coherence import DIFFERENT, PROMPT

EDGES = (-10.0, 0.5, 0.8, 0.9, 1.0, 10.0)


class Told:
    """What is known of every concept that was drawn."""

    def __init__(self) -> None:
        folder = pocket.base_folder()
        self.extractor = load_extractor(pocket.clip_folder(), "pocket", judged.CPU)
        backbone = families.recognized(folder).load(folder, judged.CPU)
        self.different = similarity(self.extractor.images(judged.draw(backbone, PROMPT, DIFFERENT)))

    @cache  # noqa: B019 - one object, for as long as the program runs
    def pictures(self, folder: Path) -> Any:
        """Features of the pictures that were learned from."""
        return self.extractor.images([Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))])

    def of(self, output: Path) -> list[tuple[float, float, float]]:
        """Similarity, success and attributes of every concept in an output folder."""
        found = []
        cells = [path.parent for path in sorted(output.glob("cells/*/results.json"))]
        for path in [path for cell in cells for path in sorted(cell.glob("drawn/*-learned.json"))]:
            name = path.name.removesuffix("-learned.json")
            said = json.loads(path.read_text(encoding="utf-8"))
            folder = next(output.glob(f"data/*/{name}/train"), None)
            if folder is None or said["success"] is None:
                # Of pictures that are not the bundled world's nobody judges.
                continue
            samples = load_file(path.with_suffix(".safetensors"))["features"]
            value = sample_similarity(samples, self.pictures(folder), self.different)
            found.append((value, float(said["success"]), float(said["attributes"])))
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", type=Path, nargs="+", help="what `bench run --output` wrote into")
    options = parser.parse_args()
    told = Told()
    found = [each for output in options.outputs for each in told.of(output)]
    if len(found) < 2:
        parser.error("no concepts of the bundled world were drawn there")
    values, success, attributes = torch.tensor(found).T
    correlations = [float(torch.corrcoef(torch.stack([values, each]))[0, 1]) for each in (success, attributes)]
    print(f"{len(found)} concepts; correlation with success {correlations[0]:.2f}, attributes {correlations[1]:.2f}\n")
    print("| similarity | concepts | success, least to most | attributes right |\n|---|---|---|---|")
    for low, high in itertools.pairwise(EDGES):
        part = [each for each in found if low <= each[0] < high]
        if part:
            accepted = [each[1] for each in part]
            spread = f"{statistics.mean(accepted):.2f}, {min(accepted):.2f} to {max(accepted):.2f}"
            print(f"| {low} to {high} | {len(part)} | {spread} | {statistics.mean(each[2] for each in part):.2f} |")


if __name__ == "__main__":
    main()
