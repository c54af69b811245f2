"""A matrix as the product of two thin ones, as LoRA files hold it (Hu et al. 2022): exact where that is possible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

MOST = 256
"""The highest rank that is looked for: adapters of a higher one are rare."""
EXACT = 1e-5
"""|delta - up down| / |delta| below which a product is the delta: sums of fp32 numbers are no closer."""
_MORE = 8
"""Columns of the random sketch beyond the rank that it finds (Halko et al. 2011, section 1.3)."""


@dataclass(frozen=True)
class Factors:
    """delta = up @ down, or nearly.

    Attributes:
        up: (rows, rank), fp32.
        down: (rank, columns), fp32.
        error: |delta - up down| / |delta| in the Frobenius norm; 0 where one factor is the identity.
    """

    up: Array
    down: Array
    error: float

    @property
    def rank(self) -> int:
        """How many columns the one has, and rows the other."""
        return int(self.up.shape[1])

    def padded(self, rank: int) -> Factors:
        """The same product of factors of a higher rank."""
        more = rank - self.rank
        return Factors(np.pad(self.up, ((0, 0), (0, more))), np.pad(self.down, ((0, more), (0, 0))), self.error)


def thin(delta: Array) -> Factors | None:
    """Return a delta as the product of its rank, found by a random sketch; None where that is not low."""
    rows, columns = delta.shape
    if not delta.any():
        return Factors(np.zeros((rows, 1), np.float32), np.zeros((1, columns), np.float32), 0.0)
    most = min(MOST, min(rows, columns) // 2)
    if not most:
        return None
    generator = np.random.default_rng(0)
    width = min(min(rows, columns), most + _MORE)
    basis, _ = np.linalg.qr(delta @ generator.standard_normal((columns, width), dtype=np.float32))
    inside = basis.T @ delta
    if np.linalg.norm(delta - basis @ inside) > EXACT * np.linalg.norm(delta):
        return None
    left, values, right = np.linalg.svd(inside, full_matrices=False)
    # What is left out together is smaller than what counts as exact.
    beyond = np.sqrt(np.cumsum(values[::-1].astype(np.float64) ** 2))[::-1]
    rank = max(1, int(np.count_nonzero(beyond > EXACT / 2 * beyond[0])))
    return _balanced(delta, (basis @ left)[:, :rank], values[:rank], right[:rank]) if rank <= most else None


def beside_identity(delta: Array, *, below: bool) -> Factors:
    """Return any delta as a product that is exact, one factor the identity.

    Args:
        delta: (rows, columns), fp32.
        below: Whether the identity is `down`, so that the rank is the number of columns; else it is that of rows.
    """
    rows, columns = delta.shape
    plain = np.ascontiguousarray(delta)
    if below:
        return Factors(plain, np.eye(columns, dtype=np.float32), 0.0)
    return Factors(np.eye(rows, dtype=np.float32), plain, 0.0)


def truncated(delta: Array, rank: int) -> Factors:
    """Return the nearest product of a rank (Eckart and Young 1936); its error says how near that is.

    Args:
        delta: (rows, columns), fp32.
        rank: The largest rank; what has a lower one by itself keeps it.
    """
    found = thin(delta)
    if found is not None and found.rank <= rank:
        return found
    left, values, right = np.linalg.svd(delta, full_matrices=False)
    return _balanced(delta, left[:, :rank], values[:rank], right[:rank])


def _balanced(delta: Array, left: Array, values: Array, right: Array) -> Factors:
    """Share the singular values among both factors, so that neither is out of fp16's range where the other is small."""
    root = np.sqrt(values)
    up, down = (left * root).astype(np.float32), (root[:, None] * right).astype(np.float32)
    error = float(np.linalg.norm(delta - up @ down) / max(float(np.linalg.norm(delta)), 1e-30))
    return Factors(np.ascontiguousarray(up), np.ascontiguousarray(down), error)
