"""The import gate: what a file from elsewhere must be before a byte of it enters a store."""

import dataclasses
import math
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from conceptctl.errors import ImportRefused, NotFound
from conceptctl.store import concept, tensorfile
from conceptctl.store.concept import Record
from conceptctl.store.manifest import Family
from conceptctl.store.tensorfile import Header, TensorInfo

if TYPE_CHECKING:
    from conceptctl.store.weights import Array

STATE_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}")
"""What a method calls one of the things that it keeps for its next concept."""
MOST_STATE_KINDS = 16


def check_concept_file(
    path: Path,
    base_sha256: str,
    base_tensors: Mapping[str, TensorInfo],
    family: Family,
    width: int,
    is_same: Callable[[str], bool] = lambda other: False,
) -> Record:
    """Return the record of a concept file that fits a base.

    Args:
        path: The file. Nothing in it is trusted, not even that it is a file.
        base_sha256: The base of the store it shall go into.
        base_tensors: The base's tensors, by parameter path.
        family: Which of them deltas go on.
        width: Numbers in the rows of the base's token tables together.
        is_same: Whether another identity than the base's is one of the same base.

    Returns:
        The record, naming the base as the store does.

    Raises:
        NotFound: There is no such file.
        ImportRefused: It breaks a rule, which the message names.
    """
    try:
        kind = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"no file {path}") from None
    if not stat.S_ISREG(kind):
        hint = "name the file itself, not a link or a folder"
        if path.is_dir() and not path.is_symlink():
            hint = f"a folder with a model is a base: conceptctl init --base {path} --store DIR"
        raise ImportRefused(f"{path.name}: not a regular file", hint=hint)
    header = tensorfile.read_header(path)
    record = concept.read_record(path)
    if not concept.NAME.fullmatch(record.name) or not concept.UID.fullmatch(record.uid):
        raise ImportRefused(f"{path.name}: the record's name or uid cannot be one")
    if record.base != base_sha256 and not is_same(record.base):
        raise ImportRefused(
            f"{path.name}: needs base {record.base[:64]}, this store has {base_sha256}",
            hint="a store has one base; make another with conceptctl init --base ... --store DIR",
        )
    targets = {place: info for place, info in base_tensors.items() if family.is_target(place)}
    _check_tensors(path, header, targets, width)
    _check_state(path, header, targets)
    _check_numbers(path, header, base_tensors)
    return dataclasses.replace(record, base=base_sha256)


def _check_tensors(path: Path, header: Header, targets: Mapping[str, TensorInfo], width: int) -> None:
    token = header.tensors.get("token")
    if token is None or token.dtype != "F32" or token.shape != (1, width):
        raise ImportRefused(f"{path.name}: token: not one fp32 row of {width} numbers")
    for name, info in header.tensors.items():
        if name == "features":
            if info.dtype != "F32" or len(info.shape) != 2:
                raise ImportRefused(f"{path.name}: features: not fp32 rows")
        elif name != "token" and not name.startswith(("delta/", "state/")):
            raise ImportRefused(f"{path.name}: no concept file has a tensor {name[:60]!r}")
    from conceptctl.store import weights

    for place, parts in weights.delta_parts(header).items():
        _check_delta(path, header, place, parts, targets)


def _check_state(path: Path, header: Header, targets: Mapping[str, TensorInfo]) -> None:
    """What a method keeps belongs to targets, and is no larger than they are: it cannot carry anything else."""
    kinds = set()
    for name, info in header.tensors.items():
        if not name.startswith("state/"):
            continue
        kind, _, place = name[len("state/") :].partition("/")
        kinds.add(kind)
        if not STATE_KIND.fullmatch(kind) or place not in targets:
            raise ImportRefused(f"{path.name}: {name[:80]}: it belongs to no weight that a concept changes")
        shape, target = info.shape, targets[place].shape
        fits = 1 <= len(shape) <= 2 and max(shape) <= max(target) and math.prod(shape) <= math.prod(target)
        if info.dtype != "F32" or not fits:
            raise ImportRefused(f"{path.name}: {name[:80]}: no fp32 numbers of a size that goes with the weight's")
    if len(kinds) > MOST_STATE_KINDS:
        raise ImportRefused(f"{path.name}: {len(kinds)} kinds of state; no method keeps more than {MOST_STATE_KINDS}")


def _check_delta(
    path: Path, header: Header, place: str, parts: frozenset[str], targets: Mapping[str, TensorInfo]
) -> None:
    if place not in targets or not parts <= {"mask", "values", "up", "down"}:
        raise ImportRefused(f"{path.name}: {place[:80]}: the base has no such weight that a concept changes")
    if parts not in ({"mask", "values"}, {"up", "down"}, {"up", "down", "mask"}):
        raise ImportRefused(f"{path.name}: {place}: a mask and its values go together, and so do two factors")
    shape, found = targets[place].shape, {part: header.tensors[f"delta/{place}/{part}"] for part in parts}
    mask = found.get("mask")
    if mask and (mask.dtype != "U8" or mask.shape != (math.ceil(math.prod(shape) / 8),)):
        raise ImportRefused(f"{path.name}: {place}: wrong shape for the base's {shape}")
    if any(info.dtype != "F32" for part, info in found.items() if part != "mask"):
        raise ImportRefused(f"{path.name}: {place}: its numbers are not fp32")
    if "values" in found:
        if len(found["values"].shape) != 1:
            raise ImportRefused(f"{path.name}: {place}: values are not a row of fp32")
        return
    up, down = found["up"].shape, found["down"].shape
    if len(up) != 2 or len(down) != 2 or (up[0], down[1]) != shape or up[1] != down[0]:
        raise ImportRefused(f"{path.name}: {place}: factors of a wrong shape for the base's {shape}")
    if not 1 <= up[1] <= min(shape):
        raise ImportRefused(f"{path.name}: {place}: factors of rank {up[1]}; 1 to {min(shape)} are allowed")


def _check_numbers(path: Path, header: Header, base: Mapping[str, TensorInfo]) -> None:
    import numpy as np

    from conceptctl.store import weights

    view = tensorfile.numbers(path, header)
    for name, info in header.tensors.items():
        if info.dtype not in (*weights.DTYPES, "BF16"):
            continue
        array = weights.to_array(info, view)
        if not np.isfinite(array).all():
            raise ImportRefused(f"{path.name}: {name}: not all numbers are finite")
        if name == "token" or (name.startswith("delta/") and name.endswith("/values")):
            _check_drawable(path, name, array)
    for place, parts in weights.delta_parts(header).items():
        shape = base[place].shape
        bits = weights.unpack(header.tensors[f"delta/{place}/mask"], view) if "mask" in parts else None
        if bits is not None and bits[math.prod(shape) :].any():
            raise ImportRefused(f"{path.name}: {place}: the mask has more bits than the weight has entries")
        if "values" in parts:
            assert bits is not None
            if np.count_nonzero(bits) != header.tensors[f"delta/{place}/values"].shape[0]:
                raise ImportRefused(f"{path.name}: {place}: the mask and its values do not fit together")
        else:
            _check_factors(path, header, place, shape)


def _check_factors(path: Path, header: Header, place: str, shape: tuple[int, ...]) -> None:
    """Make sure that a product can be drawn with, and is the same on every machine."""
    from conceptctl.store import weights
    from conceptctl.store.factors import Factors

    factors = weights.read_stored(path, header, place, shape)
    assert isinstance(factors, Factors)
    if not factors.is_on_grid:
        raise ImportRefused(
            f"{path.name}: {place}: its factors are not rounded as a concept file's are, so that their product "
            "differs from machine to machine",
            hint="export it again with the program that it was learned with",
        )
    _check_drawable(path, f"delta/{place}", factors.product())


def _check_drawable(path: Path, name: str, array: "Array") -> None:
    from conceptctl.store import weights

    if not weights.is_drawable(array):
        raise ImportRefused(
            f"{path.name}: {name}: numbers beyond {weights.LARGEST:g}, with which no model draws",
            hint="learn it anew where it comes from, and export it again",
        )
