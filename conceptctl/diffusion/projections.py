"""The weights that a concept changes: keys and values of a U-Net's cross-attention, by their place in the base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

ENDS = ("attn2.to_k", "attn2.to_v")
Deltas = Mapping[str, Tensor]
"""What is added to each weight, by its place: `unet/mid_block.attentions.0....attn2.to_k.weight`."""
Places = tuple[str, ...]
Shape = tuple[int, int]


def alike(shapes: Mapping[str, Shape]) -> dict[Places, Shape]:
    """Put together the places of one shape, in the order of the first of each."""
    found: dict[Shape, list[str]] = {}
    for place, shape in shapes.items():
        found.setdefault(shape, []).append(place)
    return {tuple(places): shape for shape, places in found.items()}


class Stacks(Mapping[str, Tensor]):
    """Matrices by place, those of one shape in one tensor.

    A U-Net has dozens of small projections of a few shapes. With several threads on a CPU, what is done to a stack of
    them at once is done sooner than to one after the other; a GPU is asked for fewer operations.
    """

    def __init__(self, stacks: Mapping[Places, Tensor] | None = None) -> None:
        """Take stacks (n, D1, D2) by the places of their n matrices."""
        self.stacks = dict(stacks or {})
        self._matrices = {
            place: matrix
            for places, stack in self.stacks.items()
            for place, matrix in zip(places, stack.unbind(), strict=True)
        }

    @classmethod
    def of(cls, matrices: Mapping[str, Tensor]) -> Self:
        """Stack matrices (D1, D2)."""
        shapes = {place: (matrix.shape[0], matrix.shape[1]) for place, matrix in matrices.items()}
        return cls({places: torch.stack([matrices[place] for place in places]) for places in alike(shapes)})

    def __getitem__(self, place: str) -> Tensor:
        return self._matrices[place]

    def __iter__(self) -> Iterator[str]:
        return iter(self._matrices)

    def __len__(self) -> int:
        return len(self._matrices)


def cross_attention(unet: nn.Module) -> dict[str, nn.Linear]:
    """Find the cross-attention K and V projections of a U-Net, by place."""
    return {
        f"unet/{name}.weight": module
        for name, module in unet.named_modules()
        if name.endswith(ENDS) and isinstance(module, nn.Linear)
    }


class _Replaced(nn.Module):
    """Stands in for a weight whenever it is used; without a stand-in, the weight is used as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.stand_in: Tensor | None = None

    def forward(self, weight: Tensor) -> Tensor:
        return weight if self.stand_in is None else self.stand_in


class Adapted:
    """Projections that deltas can be put on, and taken off again."""

    def __init__(self, projections: Mapping[str, nn.Linear]) -> None:
        self._weights = {place: module.weight for place, module in projections.items()}
        self._stacks: dict[Places, Tensor] = {}
        self._replaced = {place: _Replaced() for place in projections}
        for place, module in projections.items():
            parametrize.register_parametrization(module, "weight", self._replaced[place])

    def put(self, deltas: Stacks, dtype: torch.dtype | None = None) -> None:
        """Put deltas on; places that have none are used as they are.

        Args:
            deltas: What is added, (D1, D2) by place.
            dtype: What the sums are used in; the weights' own type unless told otherwise. A sum that autocast would
                turn into bf16 is better made so here: all of one shape at once, and their gradients too.
        """
        sums = Stacks({places: self._sum(places, stack, dtype) for places, stack in deltas.stacks.items()})
        for place, replaced in self._replaced.items():
            replaced.stand_in = sums.get(place)

    def _sum(self, places: Places, stack: Tensor, dtype: torch.dtype | None) -> Tensor:
        if places not in self._stacks:
            self._stacks[places] = torch.stack([self._weights[place].detach() for place in places])
        weights = self._stacks[places]
        return (weights + stack).to(dtype or weights.dtype)


@contextmanager
def adapted(projections: Mapping[str, nn.Linear]) -> Iterator[Adapted]:
    """Make projections take deltas, and leave them as they were."""
    try:
        yield Adapted(projections)
    finally:
        for module in projections.values():
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


def freeze(*modules: nn.Module) -> None:
    """Let nothing of these modules train."""
    for module in modules:
        module.eval().requires_grad_(False)


def shapes_of(projections: Mapping[str, nn.Linear]) -> dict[str, Shape]:
    """The shapes (D1, D2) of projections, by place."""
    return {place: (module.out_features, module.in_features) for place, module in projections.items()}


@torch.no_grad()
def sizes_of(projections: Mapping[str, nn.Linear], states: Tensor) -> dict[str, Tensor]:
    """What projections make of hidden states: |W R|^2 by place, in fp32.

    Args:
        projections: Keys and values.
        states: R of shape (D2, k).
    """
    return {place: (module.weight.float() @ states).square().sum() for place, module in projections.items()}
