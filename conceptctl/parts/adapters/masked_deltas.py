"""Masked deltas of which one projection's is there at a time: made where it is used, and anew on the way back.

At SDXL's size the deltas of all targets are 1.4 GB in fp32, and what their gradients need is several times that. One
projection's are a few megabytes, whose parts stay in a CPU's cache while everything is done that is done to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from conceptctl.learning.weights import Adapted, Deltas, Forward, Paths
from conceptctl.parts.masks import MaskForm, mask_gradient, soft_mask
from conceptctl.parts.penalties import Penalty

BLOCK = 2**17
"""Entries that are worked on together on a CPU: some tensors of so many fit its second-level cache."""


@dataclass(frozen=True)
class MaskedProduct:
    """How one projection's delta, (A B) * M, is drawn."""

    path: str
    leaves: Sequence[Tensor]
    """A (1, D1, r), B (1, r, D2) and the parts of the mask's logits."""
    form: MaskForm
    noise: Callable[[], Tensor]
    """Logistic noise over the temperature, (1, D1, D2): the same in every call."""
    temperature: float
    penalties: Sequence[Penalty]

    def blocks(self) -> list[slice]:
        """Rows that are worked on together."""
        up, down = self.leaves[:2]
        rows = up.shape[1] if up.device.type != "cpu" else max(1, BLOCK // down.shape[2])
        return [slice(first, first + rows) for first in range(0, up.shape[1], rows)]

    def drawn(self, rows: slice, noise: Tensor, up: Tensor, down: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
        """Some rows of A B, and of the soft mask."""
        differences = self.form.differences(rows, *parts)
        return up[:, rows] @ down, soft_mask(differences, noise[:, rows], self.temperature)


class MaskedDeltas(Deltas):
    """Deltas that are made projection by projection, each time they are used, from a few small tensors.

    A projection that uses its delta measures it in passing: the share that passes, and the penalties. What no network
    has used is measured for itself.
    """

    def __init__(self, paths: Sequence[Paths], products: Sequence[MaskedProduct], penalties: Sequence[str]) -> None:
        """Take how each delta is drawn.

        Args:
            paths: The paths of each shape.
            products: One for each path, in that order.
            penalties: What the products' penalties are called.
        """
        self.paths, self.penalties = paths, penalties
        self._products = {product.path: product for product in products}
        self._measures: dict[str, tuple[Tensor, ...]] = {}

    @property
    def stacks(self) -> Mapping[Paths, Tensor]:  # type: ignore[override]
        """All of them at once, (n, D1, D2) by the paths of one shape: what this class is there to avoid."""
        return {paths: torch.stack([self[path] for path in paths]) for paths in self.paths}

    def __getitem__(self, path: str) -> Tensor:
        return self._apply(path, None, None, None, None)[0][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._products)

    def __len__(self) -> int:
        return len(self._products)

    def forwards(self, weights: Adapted, dtype: torch.dtype | None) -> Mapping[str, Forward]:
        """What projections do with these deltas, by path."""
        return {path: partial(self._forward, weights, dtype, path) for path in self}

    def densities(self) -> Tensor:
        """The share of each delta that passes, (n,), with its graph."""
        return self._measured(0)

    def penalty(self, name: str) -> Tensor:
        """What each delta adds to a penalty, (n,), with its graph."""
        return self._measured(1 + self.penalties.index(name))

    def _forward(self, weights: Adapted, dtype: torch.dtype | None, path: str, inputs: Tensor) -> Tensor:
        module = weights.projections[path]
        output, *measures = self._apply(path, dtype, inputs, module.weight, module.bias)
        # Of a network that runs several times, the first time's; never again where activations are recomputed.
        self._measures.setdefault(path, tuple(measures))
        return output

    def _measured(self, index: int) -> Tensor:
        for path in self:
            if path not in self._measures:
                self._measures[path] = self._apply(path, None, None, None, None)[1:]
        return torch.cat([self._measures[path][index] for path in self])

    def _apply(
        self, path: str, dtype: torch.dtype | None, inputs: Tensor | None, weight: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, ...]:
        product = self._products[path]
        found: tuple[Tensor, ...] = _MaskedProjection.apply(  # type: ignore[no-untyped-call]
            product, dtype, inputs, weight, bias, *product.leaves
        )
        return found


class _MaskedProjection(torch.autograd.Function):
    """x (W + D)^T, or D itself (1, D1, D2) where no x is given; the share of D that passes (1,); penalties, (1,) each.

    Forward, D is what a hard mask lets pass; backward, the gradient is the soft mask's (Jang et al. 2017, section 2.2).
    Only what D is made of is kept: making it again takes no longer than reading it from memory would.
    """

    @staticmethod
    def forward(
        ctx: Any,
        product: MaskedProduct,
        dtype: torch.dtype | None,
        inputs: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        *leaves: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.product, ctx.has_inputs = product, inputs is not None
        ctx.save_for_backward(inputs, weight, *leaves)
        up, down = leaves[:2]
        total = up.new_empty(1, up.shape[1], down.shape[2], dtype=dtype or (up if weight is None else weight).dtype)
        noise, sums = product.noise(), []
        with torch.autocast(up.device.type, enabled=False):
            for rows in product.blocks():
                values, mask = product.drawn(rows, noise, *leaves)
                # First the hard mask, then what it lets pass, in the same memory.
                passed = mask.round_().sum(dim=(1, 2))
                delta = mask.mul_(values)
                sums.append([passed, *(penalty.value(product.path, delta, rows) for penalty in product.penalties)])
                if weight is None:
                    total[:, rows] = delta
                else:
                    torch.add(delta, weight[rows], out=total[:, rows])
            passed, *penalties = (
                torch.stack(each).sum(dim=0) if len(each) > 1 else each[0] for each in zip(*sums, strict=True)
            )
        output = total if inputs is None else F.linear(inputs, total[0], bias)
        return output, passed / total.numel(), *penalties

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_output: Tensor, of_density: Tensor, *of_penalties: Tensor) -> tuple[Tensor | None, ...]:
        product: MaskedProduct = ctx.product
        inputs, weight, *leaves = ctx.saved_tensors
        up, down, *parts = leaves
        if ctx.has_inputs:
            flat = inputs.flatten(0, -2).to(of_output.dtype)
            of_delta = torch.mm(of_output.flatten(0, -2).T, flat)[None].to(up.dtype)
        else:
            of_delta = of_output.clone()
        of_logits = torch.empty_like(of_delta)
        total = torch.empty_like(of_delta, dtype=of_output.dtype) if ctx.needs_input_grad[2] else None
        of_share = (of_density / (of_delta.numel() * product.temperature))[:, None, None]
        noise = product.noise()
        for rows in product.blocks():
            values, soft = product.drawn(rows, noise, *leaves)
            hard, of_passed = soft.round(), of_delta[:, rows]
            if product.penalties or total is not None:
                delta = hard * values
                if product.penalties:
                    of_passed += _of_penalties(product, delta, rows, of_penalties)
                if total is not None:
                    torch.add(delta, weight[rows], out=total[:, rows])
            mask_gradient(soft, values, of_passed, of_share, product.temperature, of_logits[:, rows])
            of_passed *= hard
        of_inputs = None if total is None else torch.matmul(of_output, total[0]).to(inputs.dtype)
        of_leaves = (of_delta @ down.mT, up.mT @ of_delta, *product.form.gradients(of_logits, *parts))
        return None, None, of_inputs, None, None, *of_leaves


def _of_penalties(product: MaskedProduct, delta: Tensor, rows: slice, scales: Sequence[Tensor]) -> Tensor:
    """The gradient of all penalties for some rows of a delta."""
    first, *others = (
        penalty.gradient(product.path, delta, rows, scale)
        for penalty, scale in zip(product.penalties, scales, strict=True)
    )
    for other in others:
        first += other
    return first
