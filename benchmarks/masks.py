"""Whether masks are the concept's: how far those of two trainings of one concept agree, and those of two concepts.

    python benchmarks/sequence.py --workspace DIR/0 --methods alone --concepts 3 --seed 7
    python benchmarks/sequence.py --workspace DIR/1 --methods alone --concepts 3 --seed 7 --training-seed 1
    python benchmarks/masks.py DIR/0 DIR/1

Agreement is Jaccard's: entries that both let pass over those that either does.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from conceptctl.store import base, weights
from conceptctl.store.store import Store

Mask = np.ndarray[Any, Any]


def masks(workspace: Path) -> dict[str, Mask]:
    """Of every concept that was learned alone, by name: which entries of all targets it changes."""
    found = {}
    for root in sorted(workspace.glob("alone-*/")):
        store = Store(root)
        head = store.head()
        shapes = {path: info.shape for path, (_, _, info) in base.tensors(store.layout, head.base).items()}
        (concept,) = head.concepts
        deltas = weights.read_deltas(store.blob(concept), shapes)
        found[concept.name] = np.concatenate([delta.mask.ravel() for _, delta in sorted(deltas, key=lambda d: d[0])])
    return found


def jaccard(first: Mask, second: Mask) -> float:
    return float((first & second).sum() / (first | second).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="a workspace of sequence.py")
    parser.add_argument("second", type=Path, help="the same concepts with another training seed")
    options = parser.parse_args()
    first, second = masks(options.first), masks(options.second)
    if not first or first.keys() != second.keys():
        parser.error("the two have other concepts")
    same = [jaccard(first[name], second[name]) for name in first]
    # Of two seeds too: one and the same start is something that masks of one seed share.
    others = [jaccard(first[one], second[other]) for one, other in itertools.permutations(first, 2)]
    one_seed = [
        jaccard(each[one], each[other]) for each in (first, second) for one, other in itertools.combinations(each, 2)
    ]
    density = statistics.mean(float(mask.mean()) for each in (first, second) for mask in each.values())
    chance = density / (2 - density)
    print("| masks of | agreement | pairs |\n|---|---|---|")
    for what, found in (
        ("one concept, two seeds", same),
        ("two concepts, two seeds", others),
        ("two concepts, one seed", one_seed),
    ):
        print(f"| {what} | {statistics.mean(found):.3f} | {len(found)} |" if found else f"| {what} | - | 0 |")
    print(f"| chance, at a density of {density:.2f} | {chance:.3f} | |")


if __name__ == "__main__":
    main()
