"""The four forms of STAMINA's mask side by side, from sequences that `sequence.py` has run with each of them.

python benchmarks/sequence.py --workspace DIR/FORM --methods stamina --concepts 2 --seed 7 --set mask=FORM
python benchmarks/masks.py DIR                                  # low-rank, literal, collapsed, direct
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from conceptctl.store import base, weights
from conceptctl.store.concept import read_record
from conceptctl.store.store import Store

FORMS = ("low-rank", "literal", "collapsed", "direct")


def masks(store: Store) -> list[np.ndarray[Any, Any]]:
    """Each concept's masks, one after the other in the order of the places."""
    head = store.head()
    shapes = {place: info.shape for place, (_, _, info) in base.tensors(store.layout, head.base).items()}
    return [
        np.concatenate([delta.mask.ravel() for _, delta in weights.read_deltas(store.blob(each), shapes)])
        for each in head.concepts
    ]


def agreement(first: list[np.ndarray[Any, Any]], second: list[np.ndarray[Any, Any]]) -> tuple[float, float]:
    """The share of entries that two forms both keep or both leave, and what chance alone would give."""
    pairs = list(zip(first, second, strict=True))
    same = statistics.mean(float((one == other).mean()) for one, other in pairs)
    chance = statistics.mean(
        float(one.mean() * other.mean() + (1 - one.mean()) * (1 - other.mean())) for one, other in pairs
    )
    return same, chance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    stores = {form: Store(options.folder / form / "stamina") for form in FORMS if (options.folder / form).is_dir()}
    if "literal" not in stores:
        parser.error("the other forms are compared with `literal`, which has not been run")
    literal = masks(stores["literal"])
    print("| form | judge | details | A_mmd | F_mmd | density | as `literal` (by chance) | N_param trained |")
    print("|---|---|---|---|---|---|---|---|")
    for form, store in stores.items():
        row = json.loads((options.folder / form / "figures.json").read_text(encoding="utf-8"))["stamina"]
        same, chance = agreement(masks(store), literal)
        trained = read_record(store.blob(store.head().concepts[0])).settings["trained_in_unet"]
        density = statistics.mean(row["density"])
        print(
            f"| {form} | {100 * row['judge_after_learning']:.0f} % | {100 * row['details_after_learning']:.0f} % | "
            f"{row['A_mmd']:.2f} | {row['F_mmd']:.2f} | {100 * density:.0f} % | "
            f"{100 * same:.0f} % ({100 * chance:.0f} %) | {trained:,} |"
        )


if __name__ == "__main__":
    main()
