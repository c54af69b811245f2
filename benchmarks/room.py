"""What fills up in a long sequence: how dear it has become to change what a concept's own prompt gives, and no other's.

    conceptctl bench run fifty --cells 'stamina-anchored/*' --output DIR
    python benchmarks/room.py DIR/cells/*/store

The penalty of `stamina-anchored` is |D R|^2, with R R^T the second moment M of the hidden states of whatever may be
asked for, earlier concepts' prompts included. The least of it with which a delta D gives one unit at a state h is
1 / (h^T M^-1 h): the *price* of h, here of the state at each concept's token, over |h|^2 and relative to the first
concepts'. *Directions* are the columns of R, of as many as hidden states have numbers. Only tokens decide both, so that
of a store that is not finished yet what is there is told.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from judged import token_number
from torch import Tensor

from conceptctl.learning.backbone import Backbone
from conceptctl.store.concept import read_record
from conceptctl.store.store import Store
from conceptctl.workflows.model import load
from conceptctl.workflows.reference_samples import recipe_of
from conceptctl.workflows.usual_prompts import usual

RIDGE = 1e-4
"""Of the mean of M's diagonal: R leaves out as much."""
TEN = 10


def price(state: Tensor, factor: Tensor) -> float:
    """The least penalty for a unit at a state (D,), over the state's own square."""
    moment = factor.double() @ factor.double().T
    moment += RIDGE * moment.diagonal().mean() * torch.eye(len(moment), dtype=torch.float64)
    state = state.double()
    return 1 / float(state @ torch.linalg.solve(moment, state)) / float(state @ state)


@torch.no_grad()
def measured(store: Store, backbone: Backbone) -> list[tuple[int, float]]:
    """For each concept: directions that were taken before it came, and the price of its own."""
    head, tokenizer, found = store.head(), backbone.tokenizer(), []
    names = [concept.name for concept in head.concepts]
    numbers = [token_number(tokenizer, name) for name in names]
    for place, concept in enumerate(head.concepts):
        record = read_record(store.blob(concept))
        prompt = recipe_of(record, head.base).prompt_for(concept.name)
        hidden, behind = backbone.hidden_states([prompt], [numbers[place]])
        state = hidden[0, int(behind[0].int().argmax())]
        factor = backbone.reference_factor([f"a photo of a {record.class_word}"], without=numbers[place:])
        factor = backbone.with_prompts(factor, [usual(tokenizer, name) for name in names[:place]])
        found.append((factor.shape[1], price(state, factor)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path, nargs="+")
    options = parser.parse_args()
    for root in options.stores:
        store = Store(root)
        if not store.head().concepts:
            parser.error(f"{root} has no concepts")
        backbone = load(store, store.head(), "cpu")
        found = measured(store, backbone)
        first = statistics.mean(each for _, each in found[:TEN])
        print(f"{root}\n\n| concepts | directions taken before | price of a unit |\n|---|---|---|")
        for start in range(0, len(found), TEN):
            part = found[start : start + TEN]
            taken, dear = part[0][0], statistics.mean(each for _, each in part)
            print(f"| {start + 1} to {start + len(part)} | {taken} | {dear / first:.2f} |")


if __name__ == "__main__":
    main()
