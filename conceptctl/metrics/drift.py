"""How far the weights have gone from the base, and how often a concept changes what another has changed already."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Drift:
    """The weights after one task."""

    changed: int
    """How many weights this task changed."""
    first_time: float | None
    """Share of them that no earlier task had changed (STAMINA figure A); None for a task that changed none."""
    distance: float
    """||W_t - W_init||_2 over all weights together (STAMINA figure 2)."""


class WeightHistory:
    """Adds up deltas, task after task, in the order of learning."""

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._touched: dict[str, NDArray[np.bool_]] = {}

    def add(self, deltas: Iterable[tuple[str, NDArray[np.bool_], NDArray[np.float32]]]) -> Drift:
        """Add one task's deltas.

        Args:
            deltas: For each weight matrix: its path, which entries change (D1, D2), and what is added to those, in C
                order.

        Returns:
            The state after the task.
        """
        changed = fresh = 0
        for path, mask, values in deltas:
            total = self._sums.setdefault(path, np.zeros(mask.shape))
            touched = self._touched.setdefault(path, np.zeros(mask.shape, dtype=np.bool_))
            changed += int(np.count_nonzero(mask))
            fresh += int(np.count_nonzero(mask & ~touched))
            total[mask] += values
            touched |= mask
        squared = sum(float(np.square(total).sum()) for total in self._sums.values())
        return Drift(changed, fresh / changed if changed else None, squared**0.5)
