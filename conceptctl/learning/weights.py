"""Deltas: what is added to weights, grouped by shape, and how a network uses them without being changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Paths = tuple[str, ...]
"""Parameter paths: a component of the model and a parameter of it, as in `COMPONENT/block.0.proj.weight`."""
Shape = tuple[int, int]
Forward = Callable[[Tensor], Tensor]
"""What a projection makes of its inputs, (..., D2) to (..., D1)."""
TokenRows = Mapping[str, Tensor]
"""Rows of token tables, (tokens, D) by the name of the table: one row for each token that is learned."""
TableNumbers = Mapping[str, Sequence[int]]
"""Which row of each token table is some tokens', in their order: tokenizers with other vocabularies count otherwise."""


def grouped_by_shape(shapes: Mapping[str, Shape]) -> dict[Paths, Shape]:
    """Put together the paths of one shape, in the order of the first of each."""
    found: dict[Shape, list[str]] = {}
    for path, shape in shapes.items():
        found.setdefault(shape, []).append(path)
    return {tuple(paths): shape for shape, paths in found.items()}


@dataclass(frozen=True)
class Products:
    """Where deltas come from that are products: up @ down, where the mask lets them pass."""

    up: Tensor
    """(n, D1, r)."""
    down: Tensor
    """(n, r, D2)."""
    mask: Tensor | None = None
    """Which entries pass, bool, (n, D1, D2); None for all."""

    def to(self, device: torch.device) -> Products:
        """The same on another device, in fp32 and without a graph."""
        mask = None if self.mask is None else self.mask.to(device)
        return Products(self.up.detach().float().to(device), self.down.detach().float().to(device), mask)

    def unbind(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """The factors of one matrix after the other."""
        masks = self.mask if self.mask is not None else [None] * len(self.up)
        return zip(self.up, self.down, masks, strict=True)


class Deltas(Mapping[str, Tensor]):
    """Matrices by parameter path, those of one shape in one tensor.

    A network has dozens of small projections of a few shapes. With several threads on a CPU, what is done to a stack of
    them at once is done sooner than to one after the other; a GPU is asked for fewer operations.
    """

    products: Mapping[Paths, Products] = MappingProxyType({})
    """Those of the stacks that are known to be products of thin matrices, but for rounding: they are kept as such."""

    def __init__(
        self, stacks: Mapping[Paths, Tensor] | None = None, products: Mapping[Paths, Products] | None = None
    ) -> None:
        """Take stacks (n, D1, D2) by the paths of their n matrices, and the factors of those that are products."""
        self.stacks = dict(stacks or {})
        self.products = dict(products or {})
        self._matrices = {
            path: matrix
            for paths, stack in self.stacks.items()
            for path, matrix in zip(paths, stack.unbind(), strict=True)
        }

    @classmethod
    def of(cls, matrices: Mapping[str, Tensor]) -> Self:
        """Stack matrices (D1, D2)."""
        shapes = {path: (matrix.shape[0], matrix.shape[1]) for path, matrix in matrices.items()}
        return cls({paths: torch.stack([matrices[path] for path in paths]) for paths in grouped_by_shape(shapes)})

    def to(self, device: torch.device) -> Deltas:
        """The same on another device."""
        return Deltas(
            {paths: stack.to(device) for paths, stack in self.stacks.items()},
            {paths: each.to(device) for paths, each in self.products.items()},
        )

    def forwards(self, weights: Adapted, dtype: torch.dtype | None) -> Mapping[str, Forward]:
        """What projections do with these deltas, by path; see `Adapted.put`."""
        sums = Deltas(
            {
                paths: (weights.stack(paths) + stack).to(dtype or weights.stack(paths).dtype)
                for paths, stack in self.stacks.items()
            }
        )
        return {
            path: partial(F.linear, weight=weight, bias=weights.projections[path].bias) for path, weight in sums.items()
        }

    def __getitem__(self, path: str) -> Tensor:
        return self._matrices[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._matrices)

    def __len__(self) -> int:
        return len(self._matrices)


class Adapted:
    """Projections that deltas can be put on, and taken off again."""

    def __init__(self, projections: Mapping[str, nn.Linear]) -> None:
        self.projections = projections
        self._stacks: dict[Paths, Tensor] = {}
        self._forwards: Mapping[str, Forward] = {}
        for path, module in projections.items():
            module.forward = partial(self._forward, path)  # type: ignore[method-assign]

    def put(self, deltas: Deltas, dtype: torch.dtype | None = None) -> None:
        """Put deltas on; weights that have none are used as they are.

        Args:
            deltas: What is added, (D1, D2) by path.
            dtype: What the sums are used in; the weights' own type unless told otherwise. A sum that autocast would
                turn into bf16 is better made so here: all of one shape at once, and their gradients too.
        """
        self._forwards = deltas.forwards(self, dtype)

    def stack(self, paths: Paths) -> Tensor:
        """The weights of one shape, (n, D1, D2)."""
        if paths not in self._stacks:
            self._stacks[paths] = torch.stack([self.projections[path].weight.detach() for path in paths])
        return self._stacks[paths]

    def _forward(self, path: str, inputs: Tensor) -> Tensor:
        module = self.projections[path]
        forward = self._forwards.get(path)
        return forward(inputs) if forward else F.linear(inputs, module.weight, module.bias)


@contextmanager
def adapted(projections: Mapping[str, nn.Linear]) -> Iterator[Adapted]:
    """Make projections take deltas, and leave them as they were."""
    try:
        yield Adapted(projections)
    finally:
        for module in projections.values():
            module.__dict__.pop("forward", None)


class TokenOverride:
    """Where learned rows stand in for those of token tables."""

    def __init__(self, token_ids: Sequence[int], numbers: TableNumbers) -> None:
        self.token_ids, self.numbers = tuple(token_ids), numbers
        self.rows: TokenRows = {}

    def hook(self, table: str) -> _TableHook:
        """What is called with the output of one table."""
        return _TableHook(self, table)


class _TableHook:
    def __init__(self, override: TokenOverride, table: str) -> None:
        self.override, self.table = override, table

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Replace the rows in what the token table gives."""
        rows = self.override.rows.get(self.table)
        if rows is None:
            return output
        for number, row in zip(self.override.numbers[self.table], rows.split(1), strict=True):
            output = torch.where((inputs[0] == number)[..., None], row.to(output.dtype), output)
        return output


@contextmanager
def token_override(
    tables: Mapping[str, nn.Embedding], token_ids: Sequence[int], numbers: TableNumbers
) -> Iterator[TokenOverride]:
    """Let tensors of their own stand in for rows of token tables, so that no other row can ever move.

    Training a table itself and masking its gradient leaves every other row to weight decay and to the optimizer's
    rounding.

    Args:
        tables: Token tables by name.
        token_ids: The tokens whose rows are replaced.
        numbers: The same tokens' rows in each table; see `learning.backbone.TextSide.token_numbers`.
    """
    override = TokenOverride(token_ids, numbers)
    handles = [module.register_forward_hook(override.hook(table)) for table, module in tables.items()]
    try:
        yield override
    finally:
        for handle in handles:
            handle.remove()


def shapes_of(projections: Mapping[str, nn.Linear]) -> dict[str, Shape]:
    """The shapes (D1, D2) of projections, by path."""
    return {path: (module.out_features, module.in_features) for path, module in projections.items()}


@torch.no_grad()
def output_energy(projections: Mapping[str, nn.Linear], factor: Tensor) -> dict[str, Tensor]:
    """What projections make of hidden states: |W R|^2 by path, in fp32.

    Args:
        projections: Keys and values.
        factor: R of shape (D2, k), the factor of the states' second moment R R^T.
    """
    return {path: (module.weight.float() @ factor).square().sum() for path, module in projections.items()}
