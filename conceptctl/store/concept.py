"""One concept, or one task of a classifier, as one file: its delta, its token rows, and where it came from.

It is a blob in the store, and what `export --to concept` gives: whole on the base, or, raw, as it is in the store.

Tensors:
    delta/PLACE/mask    bits of the weights that change, packed eight to a byte, first bit highest
    delta/PLACE/values  what is added to those weights, fp32, in C order
    delta/PLACE/up      in their place, where that is smaller: the delta's factors (D1, r)
    delta/PLACE/down    and (r, D2), fp32 on the grids of `store.factors`, with a mask where not all entries pass
    token               rows of the token table, fp32; of a task, the head's: a row of weights and a bias for each class
    features            features of pictures drawn just after learning, fp32; optional
    state/KIND/PLACE    what a method keeps for its next concept, fp32; optional
PLACE is a component and a parameter of the base, like `COMPONENT/block.0.proj.weight`.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conceptctl.errors import ImportRefused, UsageError
from conceptctl.store import tensorfile
from conceptctl.store.manifest import canonical

METADATA_KEY = "conceptctl"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclasses.dataclass(frozen=True)
class Record:
    """Where a concept came from: all that can be said without the pictures.

    Attributes:
        uid: A random name that survives renaming.
        name: What the user calls it.
        class_word: What kind of thing it is.
        method: What learned it.
        learned: When, UTC.
        program: With which version.
        base: The sha256 of the base's tensors.
        after: The generation it was trained on.
        seed: The seed.
        steps: Optimizer steps.
        photos: How many pictures; of themselves nothing is kept.
        settings: Everything else that was set, by name. Never a path or another concept's name.
        loss_curve: Losses over the run.
        license: Under what terms the pictures may be used, in the user's words.
        consent: Who agreed to what, in the user's words.
        contains: The uids of earlier concepts that its delta goes on from: without one of them it is another delta.
            Written only where there are any.
        stands_on: In an exported file, the uids of the concepts that the delta is added on top of, in order; none for a
            concept that was made whole on the base. None where the file does not say: in a store it follows from
            history, and earlier versions did not write it.
        start: In an exported file whose delta is as it was learned, the digest of the weights that it was learned on
            (`Generation.start`); empty elsewhere.
        classes: Of a task, its classes in the order of their rows in the head. Written only where there are any.
    """

    uid: str
    name: str
    class_word: str
    method: str
    learned: str
    program: str
    base: str
    after: int
    seed: int
    steps: int
    photos: int
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    loss_curve: tuple[float, ...] = ()
    license: str = ""
    consent: str = ""
    contains: tuple[str, ...] = ()
    stands_on: tuple[str, ...] | None = None
    start: str = ""
    classes: tuple[str, ...] = ()

    def metadata(self) -> dict[str, str]:
        """Return the record as a file's metadata."""
        entry = dataclasses.asdict(self)
        for name in ("contains", "start", "classes"):
            if not entry[name]:
                del entry[name]
        if self.stands_on is None:
            del entry["stands_on"]
        return {METADATA_KEY: canonical({"concept": entry}).decode()}


UID = re.compile(r"[0-9a-f]{16}")
DIGEST = re.compile(r"[0-9a-f]{64}")
TYPES: dict[str, type | tuple[type, ...]] = {
    "uid": str, "name": str, "class_word": str, "method": str, "learned": str, "program": str, "base": str,
    "after": int, "seed": int, "steps": int, "photos": int, "settings": dict, "loss_curve": list,
    "license": str, "consent": str,
}  # fmt: skip
OPTIONAL = {"contains", "stands_on", "start", "classes"}
MOST_LETTERS = 255
"""Of a class's name: no file system has a longer one for its folder."""


def new_uid() -> str:
    """Return a name for a concept that tells nothing about it."""
    return os.urandom(8).hex()


def check_name(name: str, noun: str = "concept") -> str:
    """Return a concept's name if it can be one.

    Args:
        name: The name.
        noun: What is called so.

    Raises:
        UsageError: It has other characters than a token and a file name both can have.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be a {noun}'s name",
            hint="1 to 64 of a-z, 0-9, - and _, starting with a letter or a digit",
        )
    return name


def read_record(path: Path) -> Record:
    """Read a concept file's record.

    Raises:
        ImportRefused: The file is no concept file.
    """
    header = tensorfile.read_header(path)
    try:
        entry = json.loads(header.metadata[METADATA_KEY])["concept"]
    except (KeyError, ValueError, TypeError, RecursionError):
        raise ImportRefused(
            f"{path.name}: not a concept file: it has no record",
            hint="a file of export --to concept, a LoRA or an embedding",
        ) from None
    if not isinstance(entry, dict) or set(entry) - OPTIONAL != set(TYPES):
        raise ImportRefused(f"{path.name}: the record's fields are not those of a concept file")
    for field, kind in TYPES.items():
        if not isinstance(entry[field], kind) or isinstance(entry[field], bool):
            raise ImportRefused(f"{path.name}: the record's {field} cannot be {str(entry[field])[:40]!r}")
    if not all(isinstance(value, int | float) for value in entry["loss_curve"]):
        raise ImportRefused(f"{path.name}: the record's loss_curve is not a row of numbers")
    if not isinstance(entry.get("start", ""), str) or not DIGEST.fullmatch(entry.get("start", "0" * 64)):
        raise ImportRefused(f"{path.name}: the record's start is no digest")
    uids = {field: _uids(path, entry, field) for field in ("contains", "stands_on") if field in entry}
    classes = _classes(path, entry.get("classes", []))
    return Record(**{**entry, "loss_curve": tuple(entry["loss_curve"]), **uids, "classes": classes})


def _classes(path: Path, found: Any) -> tuple[str, ...]:
    plain = isinstance(found, list) and all(isinstance(name, str) and is_class(name) for name in found)
    if not plain or len(set(found)) < len(found):
        raise ImportRefused(f"{path.name}: the record's classes are not a row of names")
    return tuple(found)


def is_class(name: str) -> bool:
    """Whether a class can be called so: a line that a terminal prints."""
    return 0 < len(name) <= MOST_LETTERS and name.isprintable()


def _uids(path: Path, entry: Mapping[str, Any], field: str) -> tuple[str, ...]:
    found = entry[field]
    plain = isinstance(found, list) and all(isinstance(uid, str) and UID.fullmatch(uid) for uid in found)
    if not plain or len(set(found)) < len(found) or entry["uid"] in found:
        raise ImportRefused(f"{path.name}: the record's {field} is not a row of uids")
    return tuple(found)
