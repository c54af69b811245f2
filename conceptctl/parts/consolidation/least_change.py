"""The least change of linear weights that gives some states the outputs that are wanted, in closed form.

What attention draws from a prompt depends on its keys and values alone, which are linear in the prompt's hidden states:
W h. So to keep what a concept draws is to keep W h for the states of its prompts, and to let it be forgotten is to give
them the outputs that they had before. Among all weights that do so, those are taken that change the outputs of whatever
else is asked for least:

    min over E of  sum_i w_i mean_h |(W + E - V_i) h|^2  +  ridge * mean_x |E x|^2

over the states h of constraint i, whose outputs under V_i are wanted, and the states x of everything else. With the
second moments M_i and C of the two, E = (sum_i w_i (V_i - W) M_i) (sum_i w_i M_i + ridge C)^-1. As `ridge` goes to 0
this is the constrained merge of Custom Diffusion (Kumari et al. 2023, section 3.3, "constrained optimization"), as long
as there are fewer states than dimensions; where there are more, it remains defined, and no larger than D x D.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR = 1e-4
"""The share of its mean diagonal that is added to the moment of everything else: no direction is free, or weights would
grow where no state is, and bf16 sees their size."""


@dataclass(frozen=True)
class Constraint:
    """States that shall have the outputs that some weights give them."""

    moment: Tensor
    """(D, D): the mean of h h^T over the states."""
    wanted: Callable[[str], Tensor]
    """Gives the weights (D1, D) of a path whose outputs are wanted; asked once for each path."""
    weight: float = 1.0
    """How much it counts beside the others."""


def second_moment(states: Tensor) -> Tensor:
    """The mean (D, D) of h h^T over states (..., D), in float64."""
    flat = states.reshape(-1, states.shape[-1]).double()
    found: Tensor = flat.T @ flat / len(flat)
    return found


class LeastChange:
    """The solution for one set of constraints: factorized once, applied to one matrix after the other."""

    def __init__(self, constraints: Sequence[Constraint], everything_else: Tensor, ridge: float) -> None:
        """Factorize.

        Args:
            constraints: What is wanted.
            everything_else: C, the second moment (D, D) of the states whose outputs should change little.
            ridge: What they count, beside constraints of weight 1; above 0.

        Raises:
            ValueError: No constraint, or a ridge that is not above 0.
        """
        if not constraints or not ridge > 0:
            raise ValueError("the least change needs a constraint and a ridge above 0")
        self.constraints = tuple(constraints)
        self._moments = [each.moment.double() for each in constraints]
        total = torch.stack(
            [each.weight * moment for each, moment in zip(constraints, self._moments, strict=True)]
        ).sum(0)
        self._inverse = regularized_inverse(total, everything_else, ridge)
        self._asked = torch.zeros(len(constraints), dtype=torch.float64)
        self._missed = torch.zeros(len(constraints), dtype=torch.float64)

    def of(self, path: str, weight: Tensor) -> Tensor:
        """The change (D1, D) of one matrix W (D1, D), in float64; how well it holds is counted."""
        start = weight.double()
        wanted = [each.wanted(path).to(start) - start for each in self.constraints]
        sum_of_all = torch.zeros_like(start)
        for each, moment, missing in zip(self.constraints, self._moments, wanted, strict=True):
            if missing.any():
                sum_of_all += each.weight * (missing @ moment)
        change: Tensor = sum_of_all @ self._inverse
        for index, (moment, missing) in enumerate(zip(self._moments, wanted, strict=True)):
            self._asked[index] += energy(missing + start, moment)
            self._missed[index] += energy(missing - change, moment)
        return change

    @property
    def missed(self) -> list[float]:
        """How far each constraint is from holding, over all matrices so far: |outputs - wanted| / |wanted|."""
        asked = self._asked.clamp_min(torch.finfo(torch.float64).tiny)
        return [float(share) for share in (self._missed / asked).clamp_min(0).sqrt()]


def regularized_inverse(total: Tensor, everything_else: Tensor, ridge: float) -> Tensor:
    """(total + ridge C)^-1, (D, D), in float64.

    Args:
        total: A second moment (D, D), of however few states.
        everything_else: C, (D, D); a `FLOOR` is put under it.
        ridge: Above 0.
    """
    # In coordinates in which C is the identity the sum is diagonal, and well conditioned however few states there
    # are: its smallest entry is the ridge.
    stay = everything_else.double()
    floor = FLOOR * stay.diagonal().mean() * torch.eye(len(stay), dtype=stay.dtype, device=stay.device)
    factor = torch.linalg.cholesky(stay + floor)
    half = torch.linalg.solve_triangular(factor, total, upper=False)
    whitened = torch.linalg.solve_triangular(factor, half.T, upper=False)
    values, directions = torch.linalg.eigh((whitened + whitened.T) / 2)
    back = torch.linalg.solve_triangular(factor.T, directions, upper=True)
    inverse: Tensor = (back / (values.clamp_min(0) + ridge)) @ back.T
    return inverse


def energy(weight: Tensor, moment: Tensor) -> float:
    """The mean of |W h|^2 over the states of a moment (D, D), for W (D1, D)."""
    return float(((weight @ moment) * weight).sum())
