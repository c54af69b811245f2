"""How concepts fare while others are learned after them (STAMINA eq. 9 and 10; DC-score eq. 9)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from conceptctl.metrics.mmd import Kernel, mmd

FORGETTING = ("F_mmd", "BwT_mmd")
"""Figures that tell what came after a concept, which the one that was learned last does not have (j < N)."""


@dataclass(frozen=True)
class Sets:
    """Features of one concept's pictures, each (pictures, D)."""

    heldout: Tensor
    """X_{D,j}: real pictures that were not learned from."""
    after_learning: Tensor | None
    """X_{j,j}: drawn when the concept had just been learned; None where nothing is left to draw them with."""
    current: Tensor
    """X_{N,j}: drawn after everything that was learned since, with the same seeds and the same prompt."""


def figures_of(sets: Sets, kernel: Kernel | None = None) -> dict[str, float | None]:
    """Compute one concept's part of A_mmd, F_mmd, P_mmd and BwT_mmd.

    Args:
        sets: Its features. `after_learning` and `current` have equally many pictures, because the biased MMD depends
            on how many.
        kernel: What compares them; the papers' by default.

    Returns:
        Each x 10^3, and None where it cannot be said.

        A_mmd: MMD(X_{D,j}, X_{N,j}), how far today's pictures are from the real ones. Smaller is better.
        F_mmd: MMD(X_{j,j}, X_{N,j}), how far they have gone from what they were: forgetting. Smaller is better.
        P_mmd: MMD(X_{D,j}, X_{j,j}), how well it was learned at the time: plasticity. Smaller is better.
        BwT_mmd: P_mmd - A_mmd, backward transfer. Larger is better.
    """
    today = mmd(sets.heldout, sets.current, kernel)
    if sets.after_learning is None:
        return {"A_mmd": today, "F_mmd": None, "P_mmd": None, "BwT_mmd": None}
    learned = mmd(sets.heldout, sets.after_learning, kernel)
    return {
        "A_mmd": today,
        "F_mmd": mmd(sets.after_learning, sets.current, kernel),
        "P_mmd": learned,
        "BwT_mmd": learned - today,
    }


def averaged(concepts: Sequence[Mapping[str, float | None]], last: Sequence[bool]) -> dict[str, float | None]:
    """Average figures over concepts.

    Args:
        concepts: Figures of each, by name.
        last: Whether nothing was learned after it, so that it does not count for forgetting.

    Returns:
        The means over the concepts that have the figure; None where none has it.
    """
    names = dict.fromkeys(name for figures in concepts for name in figures)
    return {
        name: mean(
            figures.get(name)
            for figures, is_last in zip(concepts, last, strict=True)
            if not (is_last and name in FORGETTING)
        )
        for name in names
    }


def mean(values: Iterable[float | None]) -> float | None:
    """Average what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
