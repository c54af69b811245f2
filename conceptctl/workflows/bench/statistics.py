"""Means over seeds, and whether a difference is more than chance."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence

EXACT = 14
"""Up to so many pairs every assignment of signs is looked at: 2^14."""
DRAWN = 20_000
"""Assignments that are drawn where there are more pairs."""


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean, and the standard deviation of a sample; None for one value."""
    # Without rounding on the way: what is the same for all seeds has no deviation at all.
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def number(value: float | None) -> str:
    """Spell a figure."""
    if value is None:
        return "–"
    return f"{value:.3g}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.1e}"


def over_seeds(values: Sequence[float]) -> str:
    """Spell what one row has: the mean over its seeds, with the deviation where there are several."""
    if not values:
        return "–"
    average, deviation = mean_and_deviation(values)
    return number(average) if deviation is None else f"{number(average)} ± {deviation:.2g}"


def sign_flip(differences: Sequence[float], *, seed: int = 0) -> float | None:
    """Two-sided paired permutation test of the mean (Fisher's sign-flip test).

    Under the null hypothesis a pair's two values could as well have been exchanged, so every assignment of signs to the
    differences is as likely as the one observed.

    Args:
        differences: One a pair.
        seed: Of the assignments, where not all are looked at.

    Returns:
        The share of assignments whose mean is at least as far from 0; None for no pairs.
    """
    count = len(differences)
    if not count:
        return None
    observed = abs(math.fsum(differences)) * (1 - 1e-12)
    if count <= EXACT:
        signs = itertools.product((1, -1), repeat=count)
        hits: int = sum(abs(math.fsum(map(_times, differences, each))) >= observed for each in signs)
        return hits / (1 << count)
    import numpy as np

    generator = np.random.default_rng(seed)
    flipped = generator.choice((-1.0, 1.0), size=(DRAWN, count)) @ np.asarray(differences, dtype=np.float64)
    # The observed assignment is one of them (Phipson and Smyth 2010: a p-value is never 0).
    return (int(np.count_nonzero(np.abs(flipped) >= observed)) + 1) / (DRAWN + 1)


def _times(value: float, sign: int) -> float:
    return value * sign


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values for how many there are (Holm 1979)."""
    adjusted: dict[str, float] = {}
    highest = 0.0
    for place, (name, value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, value * (len(p_values) - place)))
        adjusted[name] = highest
    return adjusted


def kendall(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b: 1 where two lists rank alike, -1 where they rank the other way round.

    Returns:
        None where one of them ranks nothing.
    """
    agree = tied_first = tied_second = 0
    pairs = list(itertools.combinations(range(len(first)), 2))
    for i, j in pairs:
        one, other = _sign(first[i] - first[j]), _sign(second[i] - second[j])
        agree += one * other
        tied_first += one == 0
        tied_second += other == 0
    scale = math.sqrt((len(pairs) - tied_first) * (len(pairs) - tied_second))
    return agree / scale if scale else None


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
