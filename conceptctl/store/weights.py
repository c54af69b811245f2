"""Deltas and weights as arrays: packing, unpacking, and adding in the order of learning.

Additions are elementwise in fp32 and happen in one order, so folding twice gives the same bits on any machine.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conceptctl.errors import StoreDamaged
from conceptctl.store import tensorfile
from conceptctl.store.tensorfile import Header, Tensor, TensorInfo

Array = NDArray[np.float32]

DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


@dataclass(frozen=True)
class Delta:
    """What one concept adds to one weight matrix.

    Attributes:
        mask: Which entries change, bool, in the matrix's shape.
        values: What is added to them, fp32, in C order.
    """

    mask: NDArray[np.bool_]
    values: Array

    @classmethod
    def of(cls, dense: Array) -> "Delta":
        """Return the delta that adds `dense`, leaving its zeros out."""
        mask = dense != 0
        return cls(mask, dense[mask].astype(np.float32, copy=False))

    def add_to(self, weight: Array) -> None:
        """Add this to a weight matrix in place."""
        weight[self.mask] += self.values


def array_tensor(array: Array) -> Tensor:
    """Return an fp32 array as a tensor to be written."""
    plain = np.ascontiguousarray(array, dtype="<f4")
    # numpy makes a single number a row of one on the way.
    return Tensor("F32", array.shape, plain.reshape(-1).view(np.uint8).data)


def concept_tensors(
    deltas: Mapping[str, Delta],
    token: Array,
    features: Array | None = None,
    state: Mapping[str, Array] | None = None,
) -> dict[str, Tensor]:
    """Return the tensors of a concept file.

    Args:
        deltas: By the place of the weight in the base.
        token: Rows of the token table, shape (rows, width).
        features: Features of the pictures drawn just after learning, shape (pictures, width).
        state: What the method keeps for its next concept, by `KIND/PATH`.
    """
    tensors = {"token": array_tensor(token)}
    tensors |= {f"state/{name}": array_tensor(array) for name, array in (state or {}).items()}
    if features is not None:
        tensors["features"] = array_tensor(features)
    return tensors | delta_tensors(deltas)


def delta_tensors(deltas: Mapping[str, Delta]) -> dict[str, Tensor]:
    """Return the tensors of deltas, by the place of the weight in the base."""
    tensors = {}
    for place, delta in deltas.items():
        bits = np.packbits(delta.mask.reshape(-1))
        tensors[f"delta/{place}/mask"] = Tensor("U8", bits.shape, bits.tobytes())
        tensors[f"delta/{place}/values"] = array_tensor(delta.values)
    return tensors


def places(header: Header) -> list[str]:
    """Return the weights that a concept file changes."""
    return [name[len("delta/") : -len("/mask")] for name in header.tensors if _is_mask(name)]


def _is_mask(name: str) -> bool:
    return name.startswith("delta/") and name.endswith("/mask")


def to_array(info: TensorInfo, view: memoryview) -> Array:
    """Return a float tensor of a mapped file as an fp32 array of its own."""
    raw = view[info.start : info.end]
    if info.dtype == "BF16":
        # bf16 is the upper half of fp32.
        wide = np.frombuffer(raw, dtype="<u2").astype("<u4") << np.uint32(16)
        return wide.view("<f4").reshape(info.shape)
    return np.frombuffer(raw, dtype=DTYPES[info.dtype]).astype(np.float32).reshape(info.shape)


def unpack(info: TensorInfo, view: memoryview) -> NDArray[np.bool_]:
    """Return the bits of a packed mask, those that fill up its last byte included."""
    return np.unpackbits(np.frombuffer(view[info.start : info.end], dtype=np.uint8)).view(np.bool_)


def read_deltas(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Delta]]:
    """Read a concept file's deltas, one at a time, in the order of their places."""
    header = tensorfile.read_header(path)
    view = tensorfile.numbers(path, header)
    for place in sorted(places(header)):
        shape = shapes[place]
        bits = unpack(header.tensors[f"delta/{place}/mask"], view)
        mask = bits[: math.prod(shape)].reshape(shape)
        yield place, Delta(mask, to_array(header.tensors[f"delta/{place}/values"], view))


def read_floats(path: Path, name: str) -> Array:
    """Read one float tensor of a file."""
    header = tensorfile.read_header(path)
    return to_array(header.tensors[name], tensorfile.numbers(path, header))


def state_kinds(path: Path) -> frozenset[str]:
    """Return what kinds of state a concept's method kept."""
    names = tensorfile.read_header(path).tensors
    return frozenset(name.split("/")[1] for name in names if name.startswith("state/"))


def read_state(path: Path) -> dict[str, Array]:
    """Read what a concept's method kept for its next concept, by `KIND/PATH`."""
    header = tensorfile.read_header(path)
    view = tensorfile.numbers(path, header)
    named = ((name, info) for name, info in header.tensors.items() if name.startswith("state/"))
    return {name.removeprefix("state/"): to_array(info, view) for name, info in named}


def fold(
    base: Mapping[str, tuple[Path, str]], concepts: Sequence[tuple[str, Path]], stored: Path | None = None
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Add deltas to the base's weights in the order given (STAMINA eq. 5, unrolled over tasks).

    Args:
        base: By place: the base's file, and the tensor's name in it.
        concepts: The uid and the file of each concept, in the order of learning.
        stored: Weights of the concepts before them, that are gone on from; see `folded_tensors`.

    Returns:
        The weights that change, by place; and the token rows, by uid.
    """
    folded, tokens = _stored(stored) if stored else ({}, {})
    changed = sorted({place for _, path in concepts for place in places(tensorfile.read_header(path))} - folded.keys())
    if missing := [place for place in changed if place not in base]:
        raise StoreDamaged(f"the base has no {missing[0]}")
    folded |= {place: read_floats(*base[place]) for place in changed}
    shapes = {place: weight.shape for place, weight in folded.items()}
    for uid, path in concepts:
        for place, delta in read_deltas(path, shapes):
            delta.add_to(folded[place])
        tokens[uid] = read_floats(path, "token")
    return folded, tokens


def folded_tensors(folded: Mapping[str, Array], tokens: Mapping[str, Array]) -> dict[str, Tensor]:
    """Return the tensors of a folded-weights blob."""
    return {f"weights/{place}": array_tensor(weight) for place, weight in folded.items()} | {
        f"tokens/{uid}": array_tensor(rows) for uid, rows in tokens.items()
    }


def _stored(path: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """What `folded_tensors` wrote: the weights by place, and the token rows by uid."""
    header = tensorfile.read_header(path)
    view = tensorfile.numbers(path, header)
    found: dict[str, dict[str, Array]] = {"weights": {}, "tokens": {}}
    for name, info in header.tensors.items():
        kind, _, of_what = name.partition("/")
        found[kind][of_what] = to_array(info, view)
    return found["weights"], found["tokens"]
