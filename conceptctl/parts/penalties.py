"""Losses that are added to the denoising loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from conceptctl.learning.weights import Deltas


class Penalty(Protocol):
    """A penalty to which each row of each delta adds its own part, so that all deltas need not be there at once."""

    def value(self, path: str, delta: Tensor, rows: slice) -> Tensor:
        """What some rows, (1, m, D2), of one projection's delta add to it, (1,)."""

    def gradient(self, path: str, delta: Tensor, rows: slice, scale: Tensor) -> Tensor:
        """The gradient of that for these rows, times a scale, (1,)."""


def sparsity(densities: Tensor, sizes: Tensor) -> Tensor:
    """How much the masks let pass (STAMINA eq. 7).

    Completes the paper: |M|_1 over the number of all entries, so that every entry has the same price. A sum would
    outweigh the denoising loss by millions.

    Args:
        densities: The mean of each projection's mask, (n,): the share of its entries that pass.
        sizes: How many entries each has, (n,).

    Returns:
        The share of all entries that pass.
    """
    return (densities * (sizes / sizes.sum())).sum()


SKETCH = 32
"""Columns that stand for R in one step's preservation penalty."""


def hutchinson_sketch(factor: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a few random combinations of R's columns that stand for all of them.

    With random signs S of shape (k, c), the mean of |delta R S|^2 / c is |delta R|^2 (Hutchinson 1989, "A stochastic
    estimator of the trace of the influence matrix"), with fewer columns to multiply.

    Args:
        factor: R of shape (D, k).
        generator: Of the signs, on the CPU.

    Returns:
        R S / sqrt(c), (D, c); R itself where it has no more columns than that.
    """
    count = factor.shape[1]
    if count <= SKETCH:
        return factor
    signs = torch.randint(0, 2, (count, SKETCH), generator=generator).to(factor) * 2 - 1
    drawn: Tensor = factor @ signs / SKETCH**0.5
    return drawn


def preservation(deltas: Deltas, factor: Tensor, output_energy: Mapping[str, Tensor]) -> Tensor:
    """How much a task changes the keys and values of prompts that are not its own.

    Not in the papers of the methods here. Closed-form editing keeps a list of prompts that way (Gandikota et al. 2024,
    "Unified concept editing in diffusion models", eq. 5); the second moment of their states stands for the list, as in
    Meng et al. 2022, "Locating and editing factual associations in GPT", section 3.1.

    Args:
        deltas: What this task adds, (D1, D2) by path.
        factor: R of shape (D2, k), with R R^T the second moment of those prompts' hidden states.
        output_energy: The mean square of what each projection makes of them before this task, |W R|^2, by path.

    Returns:
        The mean over projections of |delta R|^2 / |W R|^2: the share of change.
    """
    shares = [
        (stack @ factor).square().sum(dim=(1, 2)) / torch.stack([output_energy[path] for path in paths])
        for paths, stack in deltas.stacks.items()
    ]
    return torch.cat(shares).mean()


class Preservation:
    """Each projection's share of change, whose mean is `preservation`."""

    def __init__(self, factor: Tensor, output_energy: Mapping[str, Tensor]) -> None:
        """Take what `preservation` takes."""
        self.factor, self.output_energy = factor, output_energy

    def value(self, path: str, delta: Tensor, rows: slice) -> Tensor:
        """|delta R|^2 / |W R|^2."""
        return (delta @ self.factor).square().sum(dim=(1, 2)) / self.output_energy[path]

    def gradient(self, path: str, delta: Tensor, rows: slice, scale: Tensor) -> Tensor:
        """2 delta R R^T / |W R|^2."""
        return (2 * (delta @ self.factor) * (scale / self.output_energy[path])) @ self.factor.T


def forgetting(deltas: Deltas, change: Deltas) -> Tensor:
    """How much a task changes weights that earlier tasks changed (C-LoRA; STAMINA eqs. 3 and 8).

    Args:
        deltas: What this task adds, (D1, D2) by path.
        change: The absolute value of the sum of all earlier deltas, by path: one matrix each, however many tasks. It
            has no gradient. Of the same paths as the deltas, in the same stacks.

    Returns:
        The sum over all entries of (change * delta)^2.
    """
    parts: list[Tensor] = [
        _SquaredProduct.apply(stack, change.stacks[paths])  # type: ignore[no-untyped-call]
        for paths, stack in deltas.stacks.items()
    ]
    return torch.stack(parts).sum()


class Forgetting:
    """Each projection's part of what `forgetting` is."""

    def __init__(self, change: Deltas) -> None:
        """Take what `forgetting` takes."""
        self.change = change

    def value(self, path: str, delta: Tensor, rows: slice) -> Tensor:
        """The sum of (change * delta)^2."""
        product = (delta * self.change[path][rows]).flatten()
        return product.dot(product)[None]

    def gradient(self, path: str, delta: Tensor, rows: slice, scale: Tensor) -> Tensor:
        """2 change^2 delta."""
        amount = self.change[path][rows]
        return (delta * amount).mul_(amount).mul_(2 * scale)


class _SquaredProduct(torch.autograd.Function):
    """The sum of (amount * delta)^2, whose gradient is wanted for the delta alone.

    The products are made twice: a million of them are sooner multiplied again than kept and read.
    """

    @staticmethod
    def forward(ctx: Any, delta: Tensor, amount: Tensor) -> Tensor:
        ctx.save_for_backward(delta, amount)
        product = (delta * amount).flatten()
        return product.dot(product)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        delta, amount = ctx.saved_tensors
        return (delta * amount).mul_(amount).mul_(2 * gradients[0]), None
