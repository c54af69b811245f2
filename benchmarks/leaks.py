"""What a later concept's delta does to prompts of earlier ones, in any store: why concepts are forgotten, or are not.

    conceptctl bench run keeping --cells 'stamina/4242' --output DIR
    python benchmarks/leaks.py DIR/cells/*/store

*Leak* is |D h'|^2 over |D h|^2, with D a concept's delta, h the hidden states of its own prompt and h' those of an
earlier concept's, each from the token on: 1 is a delta that does to the earlier concept what it does for its own.
*Change* is |D h'|^2 over |W h'|^2, of keys and values as they were before. *Fresh* is the share of changed entries that
no concept changed before (STAMINA, figure A). Medians over all pairs of a concept and an earlier one, and over targets.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
from judged import token_number

from conceptctl.store import base, weights
from conceptctl.store.concept import read_record
from conceptctl.store.store import Store
from conceptctl.workflows.model import load
from conceptctl.workflows.reference_samples import recipe_of


def measured(root: Path) -> tuple[str, list[float], list[float], list[float]]:
    """Of one store: its method, and leak, change and fresh share."""
    store = Store(root)
    head = store.head()
    backbone = load(store, head, "cpu")
    known = base.tensors(store.layout, head.base)
    shapes = {path: info.shape for path, (_, _, info) in known.items()}
    states, method = [], ""
    for concept in head.concepts:
        record = read_record(store.blob(concept))
        method = record.method
        prompt = recipe_of(record, head.base).prompt_for(concept.name)
        number = token_number(backbone.tokenizer(), concept.name)
        hidden, behind = backbone.hidden_states([prompt], [number])
        length = len(backbone.tokenizer()(prompt).input_ids)
        states.append(hidden[0, :length][behind[0, :length]].float().T.numpy())
    leaks, changes, fresh = [], [], []
    total = {path: weights.read_floats(*known[path][:2]) for path in backbone.targets()}
    touched = {path: np.zeros(shapes[path], dtype=bool) for path in total}
    for index, concept in enumerate(head.concepts):
        entries = new = 0
        for path, delta in weights.read_deltas(store.blob(concept), shapes):
            dense = np.zeros(shapes[path], dtype=np.float32)
            delta.add_to(dense)
            for earlier in states[:index]:
                moved = np.square(dense @ earlier).mean()
                leaks.append(moved / max(np.square(dense @ states[index]).mean(), 1e-30))
                changes.append(moved / np.square(total[path] @ earlier).mean())
            entries += int(np.count_nonzero(dense))
            new += int(np.count_nonzero((dense != 0) & ~touched[path]))
            touched[path] |= dense != 0
            total[path] += dense
        if index and entries:
            fresh.append(new / entries)
    return method, leaks, changes, fresh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path, nargs="+")
    options = parser.parse_args()
    print("| store | method | leak | change | fresh, second concept to last |\n|---|---|---|---|---|")
    with torch.no_grad():
        for root in options.stores:
            method, leaks, changes, fresh = measured(root)
            if leaks:
                each = ", ".join(f"{100 * share:.0f}" for share in fresh)
                name = f"{root.parent.name}/{root.name}"
                leak, change = statistics.median(leaks), statistics.median(changes)
                print(f"| {name} | {method} | {leak:.2f} | {change:.3f} | {each} % |")


if __name__ == "__main__":
    main()
