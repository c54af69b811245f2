"""A delta as the product of two thin matrices (Hu et al. 2022, "LoRA"): a fraction of the bytes of its entries.

What a machine makes of a product of fp32 matrices depends on the order in which it adds, so factors are kept on grids.
Each row of `up` and each column of `down` holds whole multiples of one power of two, of few enough bits that all
products and all their sums are exact in float64, whatever the order. Only the result is rounded, once, to fp32.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

_DOUBLE, _SINGLE = 53, 24
"""Bits of the significands of float64 and fp32."""


@dataclass(frozen=True)
class Factors:
    """What one concept adds to one weight matrix: up @ down, where the mask lets it pass.

    Attributes:
        up: (D1, r), fp32, on a grid a row.
        down: (r, D2), fp32, on a grid a column.
        mask: Which entries change, bool, (D1, D2); None for all.
    """

    up: Array
    down: Array
    mask: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, up: Array, down: Array, mask: NDArray[np.bool_] | None = None) -> "Factors":
        """Put factors on their grids: entries move by at most 2^-24 of their row's or column's largest up to rank 32.

        What adds nothing is left out: columns of `up` and rows of `down` that are 0, and a mask that blocks nothing.
        """
        used = np.flatnonzero(up.any(axis=0) & down.any(axis=1))
        if not len(used):
            # A product of rank 0 would have no shape.
            used = np.zeros(1, np.intp)
        made = cls(on_grid(up[:, used], rows=True), on_grid(down[used], rows=False), mask)
        if mask is not None and not cls(made.up, made.down).product()[~mask].any():
            return cls(made.up, made.down)
        return made

    @property
    def size(self) -> int:
        """The bytes that it takes in a file."""
        return 4 * (self.up.size + self.down.size) + (0 if self.mask is None else math.ceil(self.mask.size / 8))

    @property
    def is_on_grid(self) -> bool:
        """Whether its product is the same on every machine."""
        up, down = on_grid(self.up, rows=True), on_grid(self.down, rows=False)
        return np.array_equal(up, self.up) and np.array_equal(down, self.down)

    def product(self) -> Array:
        """The delta, (D1, D2), fp32, 0 where the mask blocks; infinite where it is beyond fp32."""
        with np.errstate(over="ignore"):
            found: Array = (self.up.astype(np.float64) @ self.down.astype(np.float64)).astype(np.float32)
        if self.mask is not None:
            found[~self.mask] = 0
        return found

    def add_to(self, weight: Array) -> None:
        """Add this to a weight matrix in place."""
        weight += self.product()


def on_grid(factor: Array, *, rows: bool) -> Array:
    """Round a factor so that its products are exact in float64.

    With b bits each, |up| and |down| are at most 2^b steps of their grids, and a sum of r products at most r 2^(2 b)
    steps of both, which float64 counts exactly up to 2^53.

    Args:
        factor: `up` (D1, r) or `down` (r, D2).
        rows: Whether each row has a grid, as in `up`; else each column has.

    Returns:
        The nearest fp32 numbers on the grids; a factor that is on them already stays as it is.
    """
    rank = factor.shape[1 if rows else 0]
    bits = min(_SINGLE, (_DOUBLE - (rank - 1).bit_length()) // 2)
    wide = factor.astype(np.float64)
    mantissa, exponent = np.frexp(np.abs(wide).max(axis=1 if rows else 0, keepdims=True))
    # The least power of two that is no smaller than any: a power of two is its own.
    step = exponent - (mantissa == 0.5) - bits
    found: Array = np.ldexp(np.rint(np.ldexp(wide, -step)), step).astype(np.float32)
    return found


def smaller(up: Array, down: Array, mask: NDArray[np.bool_] | None, dense: Array) -> Factors | None:
    """Return a delta's factors where they take fewer bytes than its entries do; else None.

    Args:
        up: (D1, r), fp32.
        down: (r, D2), fp32.
        mask: Which entries of the product pass; None for all.
        dense: The delta itself, (D1, D2).
    """
    made = Factors.of(up, down, mask)
    # More of them than the matrix has rows or columns is no rank of it: the gate refuses that.
    is_thin = made.up.shape[1] <= min(dense.shape)
    return made if is_thin and made.size < math.ceil(dense.size / 8) + 4 * np.count_nonzero(dense) else None
