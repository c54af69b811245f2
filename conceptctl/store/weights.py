"""Deltas and weights as arrays: packing, unpacking, and adding in the order of learning.

Additions are elementwise in fp32 and happen in one order, so folding twice gives the same bits on any machine; so do
products (`store.factors`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conceptctl.errors import StoreDamaged
from conceptctl.store import tensorfile
from conceptctl.store.factors import Factors
from conceptctl.store.tensorfile import Header, LazyTensor, Tensor, TensorInfo

Array = NDArray[np.float32]

LARGEST = 65504.0
"""The largest number of fp16: a weight or a token with larger ones draws nothing in half precision."""

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


def is_drawable(array: Array) -> bool:
    """Whether all of an array's numbers are finite and none is larger than a model can draw with."""
    return bool((np.abs(array) <= LARGEST).all())


def array_tensor(array: Array) -> Tensor:
    """Return an fp32 array as a tensor to be written."""
    plain = np.ascontiguousarray(array, dtype="<f4")
    # numpy makes a single number a row of one on the way.
    return Tensor("F32", array.shape, plain.reshape(-1).view(np.uint8).data)


def concept_tensors(
    deltas: Mapping[str, Delta | Factors],
    token: Array,
    features: Array | None = None,
    state: Mapping[str, Array] | None = None,
) -> dict[str, Tensor]:
    """Return the tensors of a concept file.

    Args:
        deltas: By the place of the weight in the base.
        token: Its row of each token table, side by side in the family's order, shape (1, all widths).
        features: Features of the pictures drawn just after learning, shape (pictures, width).
        state: What the method keeps for its next concept, by `KIND/PATH`.
    """
    tensors = {"token": array_tensor(token)}
    tensors |= {f"state/{name}": array_tensor(array) for name, array in (state or {}).items()}
    if features is not None:
        tensors["features"] = array_tensor(features)
    return tensors | delta_tensors(deltas)


def rows_by_table(row: Array, widths: Mapping[str, int]) -> dict[str, Array]:
    """Take a token's row apart: (1, all widths) into (1, width) by table."""
    ends = np.cumsum(list(widths.values()))
    return {table: row[:, end - width : end] for (table, width), end in zip(widths.items(), ends, strict=True)}


def delta_tensors(deltas: Mapping[str, Delta | Factors]) -> dict[str, Tensor]:
    """Return the tensors of deltas, by the place of the weight in the base."""
    tensors = {}
    for place, delta in deltas.items():
        if isinstance(delta, Factors):
            tensors[f"delta/{place}/up"] = array_tensor(delta.up)
            tensors[f"delta/{place}/down"] = array_tensor(delta.down)
        else:
            tensors[f"delta/{place}/values"] = array_tensor(delta.values)
        if delta.mask is not None:
            bits = np.packbits(delta.mask.reshape(-1))
            tensors[f"delta/{place}/mask"] = Tensor("U8", bits.shape, bits.tobytes())
    return tensors


def delta_parts(header: Header) -> dict[str, frozenset[str]]:
    """Return what a concept file holds of each weight that it changes: `mask` and `values`, or `up` and `down`."""
    parts: dict[str, set[str]] = {}
    for name in header.tensors:
        if name.startswith("delta/"):
            place, _, part = name[len("delta/") :].rpartition("/")
            parts.setdefault(place, set()).add(part)
    return {place: frozenset(found) for place, found in parts.items()}


def places(header: Header) -> list[str]:
    """Return the weights that a concept file changes."""
    return list(delta_parts(header))


def is_factored(header: Header) -> bool:
    """Whether a concept file has factors, which programs of formats before the fourth do not know."""
    return any("up" in parts for parts in delta_parts(header).values())


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
    for place in sorted(places(header)):
        yield place, read_delta(path, header, place, shapes[place])


def read_delta(path: Path, header: Header, place: str, shape: tuple[int, ...]) -> Delta:
    """Read one of a concept file's deltas, of a weight of a shape, entry by entry."""
    found = read_stored(path, header, place, shape)
    return Delta.of(found.product()) if isinstance(found, Factors) else found


def read_stored(path: Path, header: Header, place: str, shape: tuple[int, ...]) -> Delta | Factors:
    """Read one of a concept file's deltas as it is kept."""
    view = tensorfile.numbers(path, header)
    mask, values, up, down = (header.tensors.get(f"delta/{place}/{part}") for part in ("mask", "values", "up", "down"))
    bits = None if mask is None else unpack(mask, view)[: math.prod(shape)].reshape(shape)
    if up and down:
        return Factors(to_array(up, view), to_array(down, view), bits)
    assert bits is not None and values is not None
    return Delta(bits, to_array(values, view))


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


class Sums(Mapping[str, Array]):
    """The weights that concepts change, fp32, by place; each is added up when it is asked for.

    Deltas are added to the base's weights in the order given (STAMINA eq. 5, unrolled over tasks).
    """

    def __init__(
        self, base: Mapping[str, tuple[Path, str]], concepts: Sequence[Path], stored: Path | None = None
    ) -> None:
        """Take where the numbers stand; none is read.

        Args:
            base: By place: the base's file, and the tensor's name in it.
            concepts: The file of each concept, in the order of learning.
            stored: Weights of the concepts before them, that are gone on from; see `folded_tensors`.

        Raises:
            StoreDamaged: A delta is of a weight that the base does not have.
        """
        self._start = dict(base)
        headers = [(path, tensorfile.read_header(path)) for path in concepts]
        self._deltas = [(path, header, frozenset(places(header))) for path, header in headers]
        changed = {place for _, _, own in self._deltas for place in own}
        if stored:
            names = tensorfile.read_header(stored).tensors
            kept = {name.removeprefix("weights/"): name for name in names if name.startswith("weights/")}
            self._start |= {place: (stored, name) for place, name in kept.items()}
            changed |= kept.keys()
        if missing := sorted(changed - self._start.keys()):
            raise StoreDamaged(f"the base has no {missing[0]}")
        self._places, self._changed = sorted(changed), changed

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, place: object) -> bool:
        return place in self._changed

    def __getitem__(self, place: str) -> Array:
        """Add up one weight matrix: an array of the caller's own."""
        if place not in self:
            raise KeyError(place)
        weight = read_floats(*self._start[place])
        for path, header, own in self._deltas:
            if place in own:
                read_stored(path, header, place, weight.shape).add_to(weight)
        return weight

    def shape(self, place: str) -> tuple[int, ...]:
        """The shape of a weight, of which no number is read."""
        path, name = self._start[place]
        return tensorfile.read_header(path).tensors[name].shape


def fold(
    base: Mapping[str, tuple[Path, str]], concepts: Sequence[tuple[str, Path]], stored: Path | None = None
) -> tuple[Sums, dict[str, Array]]:
    """Return the weights with concepts in them, and their token rows by uid.

    Args:
        base: See `Sums`.
        concepts: The uid and the file of each concept, in the order of learning.
        stored: See `Sums`.
    """
    tokens = _stored_tokens(stored) if stored else {}
    tokens |= {uid: read_floats(path, "token") for uid, path in concepts}
    return Sums(base, [path for _, path in concepts], stored), tokens


def folded_tensors(folded: Mapping[str, Array], tokens: Mapping[str, Array]) -> dict[str, Tensor | LazyTensor]:
    """Return the tensors of a folded-weights blob."""
    made: dict[str, Tensor | LazyTensor] = {f"weights/{place}": lazy_tensor(folded, place) for place in folded}
    return made | {f"tokens/{uid}": array_tensor(rows) for uid, rows in tokens.items()}


def lazy_tensor(arrays: Mapping[str, Array], place: str) -> Tensor | LazyTensor:
    """Return one of several fp32 arrays as a tensor to be written; it is asked for when it is."""
    if isinstance(arrays, Sums):
        return LazyTensor("F32", arrays.shape(place), lambda: array_tensor(arrays[place]).data)
    return array_tensor(arrays[place])


def _stored_tokens(path: Path) -> dict[str, Array]:
    """The token rows that `folded_tensors` wrote, by uid."""
    header = tensorfile.read_header(path)
    view = tensorfile.numbers(path, header)
    named = ((name, info) for name, info in header.tensors.items() if name.startswith("tokens/"))
    return {name.removeprefix("tokens/"): to_array(info, view) for name, info in named}
