"""Safetensors files: read with every rule checked, written so that the same tensors give the same bytes.

The library accepts repeated keys and headers of any size, and writes metadata in a random order; a store that
names files by digest can have neither.
"""

import json
import math
import mmap
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conceptctl.errors import ImportRefused
from conceptctl.store.manifest import canonical

MAX_HEADER = 16 << 20
MAX_TENSORS = 20_000
MAX_NAME = 512

WIDTHS = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
"""Bytes an element takes, by the format's name of its type."""


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies in a file, and what it is; `start` counts from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written: its bytes are little-endian and in C order."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose bytes are made when they are written, so that no more than one is in memory."""

    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], bytes | memoryview]

    @property
    def data(self) -> bytes | memoryview:
        """Its bytes, made anew each time."""
        return self.make()


@dataclass(frozen=True)
class Header:
    """Everything in a file but the numbers."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    size: int
    """Bytes before the first number."""


def read_header(path: Path) -> Header:
    """Read and check a file's header; no number is read.

    Raises:
        ImportRefused: The file breaks a rule of the format, or one that the library does not have.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(9)
        if len(start) < 9 or start[8:] != b"{":
            # Pickles and archives end here, whatever they are called.
            raise ImportRefused(f"{path.name}: not a safetensors file: no header")
        (length,) = struct.unpack("<Q", start[:8])
        if not 2 <= length <= MAX_HEADER:
            raise ImportRefused(f"{path.name}: a header of {length} bytes; 2 to {MAX_HEADER} are allowed")
        if 8 + length > size:
            raise ImportRefused(f"{path.name}: truncated: the header goes beyond the end of the file")
        raw = b"{" + stream.read(length - 1)
    try:
        value = json.loads(raw, object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise ImportRefused(f"{path.name}: the header is not what the format asks for: {error}") from error
    metadata = value.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ImportRefused(f"{path.name}: the metadata is not text")
    if len(value) > MAX_TENSORS:
        raise ImportRefused(f"{path.name}: more than {MAX_TENSORS} tensors")
    tensors = {name: _tensor_info(path, name, entry) for name, entry in value.items()}
    _check_coverage(path, tensors, size - 8 - length)
    return Header(tensors, metadata, 8 + length)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands in it twice")
    return value


def _tensor_info(path: Path, name: str, entry: Any) -> TensorInfo:
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or ".." in name or name[0] in "/\\":
        raise ImportRefused(f"{path.name}: odd tensor name {name[:60]!r}")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ImportRefused(f"{path.name}: {name}: not a description of a tensor")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise ImportRefused(f"{path.name}: {name}: unknown type {str(dtype)[:20]!r}")
    if not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2:
        raise ImportRefused(f"{path.name}: {name}: shape or offsets are no sizes")
    start, end = offsets
    if end - start != math.prod(shape) * WIDTHS[dtype]:
        raise ImportRefused(f"{path.name}: {name}: shape {shape} does not fit its {end - start} bytes")
    return TensorInfo(dtype, tuple(shape), start, end)


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 8 and all(type(size) is int and size >= 0 for size in value)


def _check_coverage(path: Path, tensors: Mapping[str, TensorInfo], size: int) -> None:
    """Make sure that the tensors fill the file, without gaps to hide in and without overlap."""
    position = 0
    for info in sorted(tensors.values(), key=lambda info: (info.start, info.end)):
        if info.start != position:
            raise ImportRefused(f"{path.name}: tensors overlap or leave a gap at byte {position}")
        position = info.end
    if position != size:
        raise ImportRefused(f"{path.name}: truncated or padded: {position} bytes of numbers named, {size} there")


def numbers(path: Path, header: Header) -> memoryview:
    """Map the numbers of a file; offsets in it are those of the header."""
    with path.open("rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))[header.size :]


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Read a whole file into memory: its tensors, and its metadata."""
    header = read_header(path)
    view = numbers(path, header)
    tensors = {
        name: Tensor(info.dtype, info.shape, bytes(view[info.start : info.end]))
        for name, info in header.tensors.items()
    }
    return tensors, header.metadata


@dataclass(frozen=True)
class Encoded:
    """A file's bytes in pieces."""

    size: int
    """How many bytes there are."""
    start: bytes
    tensors: tuple[Tensor | LazyTensor, ...]

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """Yield the pieces, one tensor after the other."""
        yield self.start
        for tensor in self.tensors:
            yield tensor.data


def encode(tensors: Mapping[str, Tensor | LazyTensor], metadata: Mapping[str, str]) -> Encoded:
    """Return a file's bytes in pieces: the same tensors and metadata always give the same bytes."""
    # Wide types first, so that every tensor is aligned to its own width.
    order = sorted(tensors, key=lambda name: (-WIDTHS[tensors[name].dtype], name))
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name in order:
        tensor = tensors[name]
        end = position + math.prod(tensor.shape) * WIDTHS[tensor.dtype]
        entries[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    header = canonical(entries)
    header += b" " * (-len(header) % 8)
    start = struct.pack("<Q", len(header)) + header
    return Encoded(len(start) + position, start, tuple(tensors[name] for name in order))
