"""How the Fisher matrix F of one model depends on k, the classes that its scores are over.

    conceptctl bench run ten-mixed --cells 'ewc-dc/4242' --output DIR
    python benchmarks/fisher_classes.py DIR/data/mixed-10-12-40-seed-4242 DIR/cells/ewc-dc-4242-*/store --after 4

Printed is the mean entry of F of the last concept, on the same model and the same batches: of the denoising loss alone
(eq. 4 of "Mining your own secrets"), and with the scores of eq. 5 over two classes and more.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from conceptctl.learning.backbone import Crop
from conceptctl.presets import preset_of
from conceptctl.store.concept import read_record
from conceptctl.store.store import Store
from conceptctl.workflows import model
from conceptctl.workflows.bench.classifier_scores import Probe, measure, probe_settings
from conceptctl.workflows.learn.dataset import gather
from conceptctl.workflows.reference_samples import recipe_of


class MeanSquare(Probe):
    """Measures the mean entry of F, of the squares that the method itself adds up."""

    mean = 0.0

    def keep(self, adapter: Any) -> None:
        """Add a batch's."""
        adapter.add_squares()
        self.mean = float((adapter.squares / adapter.counted).double().mean())


def measured(root: Path, pictures: Path, after: int, batches: int) -> Iterator[tuple[str, float]]:
    """What the scores are over, and the mean entry of F, of one store as it was after some concepts."""
    store = Store(root)
    head = store.head()
    head = dataclasses.replace(head, concepts=head.concepts[:after], folded=None)
    backbone = model.load_base(store, head, "cpu")
    weights = model.apply_concepts(store, head, backbone)
    backbone.freeze()
    last = head.concepts[-1]
    prompt = recipe_of(read_record(store.blob(last)), head.base).prompt_for(last.name)
    shown = [Image.open(path).convert("RGB") for path in sorted((pictures / last.name / "train").iterdir())]
    crops = [Crop.middle(picture.size, picture.size) for picture in shown]
    examples = gather(backbone, shown, [[prompt]] * len(shown), crops, flip=False, auxiliary=None)
    preset = preset_of(head.base)
    for classes in (None, *range(2, after + 2)):
        config = {} if classes is None else {"dc_concepts": classes}
        probe = MeanSquare(probe_settings(preset, config), batches, with_scores=classes is not None)
        measure(store, head, backbone, weights, probe, examples)
        yield "no scores" if classes is None else str(classes), probe.mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument("--after", type=int, default=4, metavar="N", help="concepts that were learned")
    parser.add_argument("--batches", type=int, default=100)
    options = parser.parse_args()
    print("| store | k | mean of F |\n|---|---|---|")
    for root in options.stores:
        for classes, mean in measured(root, options.pictures, options.after, options.batches):
            print(f"| {root.parent.name} | {classes} | {mean:.2g} |", flush=True)


if __name__ == "__main__":
    main()
