"""Whether masks are the concept's: how far those of two trainings of one concept agree, and those of two concepts.

Beside the masks, the same of each delta's largest entries (5 % of all), and the cosine similarity of deltas.

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

Deltas = dict[str, np.ndarray[Any, Any]]
"""By the name of a concept, what it adds to all targets, one behind the other; 0 where its masks do not pass."""
LARGEST = 0.05


def deltas_of(workspace: Path) -> Deltas:
    """Of every concept that was learned alone."""
    found = {}
    for root in sorted(workspace.glob("alone-*/")):
        store = Store(root)
        head = store.head()
        shapes = {path: info.shape for path, (_, _, info) in base.tensors(store.layout, head.base).items()}
        (concept,) = head.concepts
        parts = []
        for path, delta in sorted(weights.read_deltas(store.blob(concept), shapes), key=lambda each: each[0]):
            dense = np.zeros(shapes[path], np.float32)
            delta.add_to(dense)
            parts.append(dense.ravel())
        found[concept.name] = np.concatenate(parts)
    return found


def jaccard(first: Any, second: Any) -> float:
    return float((first & second).sum() / (first | second).sum())


def of_masks(first: Any, second: Any) -> float:
    return jaccard(first != 0, second != 0)


def of_largest(first: Any, second: Any) -> float:
    one, other = (np.abs(each) >= np.quantile(np.abs(each), 1 - LARGEST) for each in (first, second))
    return jaccard(one, other)


def cosine(first: Any, second: Any) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="a workspace of sequence.py")
    parser.add_argument("second", type=Path, help="the same concepts with another training seed")
    options = parser.parse_args()
    first, second = deltas_of(options.first), deltas_of(options.second)
    if not first or first.keys() != second.keys():
        parser.error("the two have other concepts")
    pairs = {
        "one concept, two seeds": [(first[name], second[name]) for name in first],
        # Of two seeds too: one and the same start is something that deltas of one seed share.
        "two concepts, two seeds": [(first[one], second[other]) for one, other in itertools.permutations(first, 2)],
        "two concepts, one seed": [
            (each[one], each[other]) for each in (first, second) for one, other in itertools.combinations(each, 2)
        ],
    }
    print("| | agreement of masks | of the largest 5 % | cosine of deltas | pairs |\n|---|---|---|---|---|")
    for what, found in pairs.items():
        cells = [
            f"{statistics.mean(measure(*pair) for pair in found):.3f}" if found else "-"
            for measure in (of_masks, of_largest, cosine)
        ]
        print(f"| {what} | {' | '.join(cells)} | {len(found)} |")
    density = statistics.mean(float((delta != 0).mean()) for each in (first, second) for delta in each.values())
    chance = [f"{share / (2 - share):.3f}" for share in (density, LARGEST)]
    print(f"| chance, at a density of {density:.2f} | {' | '.join(chance)} | 0 | |")


if __name__ == "__main__":
    main()
