"""How large the Fisher matrix F is after each concept, for methods that keep one: how much their penalty weighs.

    conceptctl bench run ten-mixed --cells '*ewc*/4242' --output DIR
    python benchmarks/fisher_growth.py DIR/cells/*/store

F is a running average over tasks ("Mining your own secrets", section 3.1), so with gradients of one size it would
not grow. Printed is the mean of its entries, each store's concepts in their order; stores without any are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from conceptctl.store.store import Store
from conceptctl.workflows.learn.task import StoredState


def means(root: Path) -> Iterator[float]:
    """The mean entry of F after each concept of a store that has one."""
    store = Store(root)
    for concept in store.head().concepts:
        state = StoredState(store.blob(concept, read=True))
        fisher = [state[name].double() for name in state if name.startswith("fisher")]
        if fisher:
            yield float(sum(each.sum() for each in fisher)) / sum(each.numel() for each in fisher)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path, nargs="+")
    print("| store | mean of F after each concept |\n|---|---|")
    for root in parser.parse_args().stores:
        if found := list(means(root)):
            print(f"| {root.parent.name} | {', '.join(f'{each:.2g}' for each in found)} |")


if __name__ == "__main__":
    main()
