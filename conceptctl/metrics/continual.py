"""How concepts fare while others are learned after them (STAMINA eq. 9 and 10; DC-score eq. 9)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from conceptctl.metrics.mmd import Kernel, mmd


@dataclass(frozen=True)
class Sets:
    """Features of one concept's pictures, each (pictures, D)."""

    real: Tensor
    """X_{D,j}: real pictures that were not learned from."""
    then: Tensor | None
    """X_{j,j}: drawn when the concept had just been learned; None where nothing is left to draw them with."""
    now: Tensor
    """X_{N,j}: drawn after everything that was learned since, with the same seeds and the same prompt."""


@dataclass(frozen=True)
class Figures:
    """How one concept fares, or several on average; every figure x 10^3, None where it cannot be said."""

    a_mmd: float | None
    """MMD(X_{D,j}, X_{N,j}): how far today's pictures are from the real ones. Smaller is better."""
    f_mmd: float | None
    """MMD(X_{j,j}, X_{N,j}), forgetting: how far they have gone from what they were. Smaller is better."""
    p_mmd: float | None
    """MMD(X_{D,j}, X_{j,j}), plasticity: how well the concept was learned at the time. Smaller is better."""
    bwt_mmd: float | None
    """MMD(X_{D,j}, X_{j,j}) - MMD(X_{D,j}, X_{N,j}), backward transfer. Larger is better."""


def figures_of(sets: Sets, kernel: Kernel | None = None) -> Figures:
    """Compute one concept's figures.

    Args:
        sets: Its features. `then` and `now` have equally many pictures, because the biased MMD depends on how many.
        kernel: What compares them; the papers' by default.
    """
    today = mmd(sets.real, sets.now, kernel)
    if sets.then is None:
        return Figures(today, None, None, None)
    learned = mmd(sets.real, sets.then, kernel)
    return Figures(today, mmd(sets.then, sets.now, kernel), learned, learned - today)


def averaged(concepts: Sequence[Figures], forgettable: Sequence[bool]) -> Figures:
    """Average figures over concepts: A_mmd, F_mmd, P_mmd and BwT_mmd.

    Args:
        concepts: The figures of each, in the order of learning.
        forgettable: Which of them had others learned after them (j < N): the last one cannot have been forgotten, and
            F_mmd and BwT_mmd leave it out.

    Returns:
        The means; None for one that no concept has.
    """
    earlier = [figures for figures, counts in zip(concepts, forgettable, strict=True) if counts]
    return Figures(
        mean(each.a_mmd for each in concepts),
        mean(each.f_mmd for each in earlier),
        mean(each.p_mmd for each in concepts),
        mean(each.bwt_mmd for each in earlier),
    )


def mean(values: Iterable[float | None]) -> float | None:
    """Average what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
