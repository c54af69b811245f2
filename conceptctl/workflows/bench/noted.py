"""What a benchmark writes down as JSON, and how it is read again: a file that is not as it was written is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import conceptctl
from conceptctl.errors import StoreDamaged
from conceptctl.store import durable
from conceptctl.workflows.bench.cell import key_of
from conceptctl.workflows.bench.measures import COSTS, LABELS

DIGITS = 8
"""Significant ones of a figure in results: more than any two machines agree in."""
_NUMBER = (int, float, type(None))
_TOO_LARGE = 2**1000
"""Numbers that no float can hold."""
_TEXT = (str, type(None))
_OF_ANY = {"device": str, "program": str}
_FIGURES = dict.fromkeys(LABELS, _NUMBER)
_CONCEPTS = {
    **_OF_ANY,
    "cell": {
        "method": str, "alone": bool, "pictures": int, "sampling_steps": int, "pictures_sha256": str, "base": str,
        "config": {"steps": int, "batch_size": int},
    },
    "concepts": [{"name": str, "class": str}],
    "learned": [_FIGURES],
    "evaluations": [{"after": int, "figures": [_FIGURES]}],
    "pairs": (dict, type(None)),
    "tasks": [{**dict.fromkeys((*COSTS, "distance", "first_time"), _NUMBER), "precision": _TEXT}],
    "kernel": {"degree": int, "gamma": (int, float), "offset": (int, float), "unit_norm": bool, "biased": bool},
    "extractor": {"name": str, "sha256": str},
    "starts": int,
}  # fmt: skip
"""What the report reads of a cell in which concepts were learned: types by key, and what is in a list."""
_CLASSES = {
    **_OF_ANY,
    "cell": {
        "method": str, "joint": bool, "epochs": int, "base": str, "tasks": [[str]], "config": {"batch_size": int},
    },
    "tasks": [{
        "labels": [str], "answers": [[str]], "n_param_trained": _NUMBER, "n_param_stored": _NUMBER, "seconds": _NUMBER,
    }],
}  # fmt: skip
"""The same of one in which classes were."""
_SPEC = {
    "name": str, "title": str, "description": str, "base": str, "reference": str, "protocol": {"name": str},
    "seeds": [int],
    "entries": [{"label": str}],
}  # fmt: skip
"""What the report reads of a spec."""
_COMPARED = {"paper": {"source": str, "values": dict}}
"""What besides, of one that compares drawn concepts."""
_CHECKS = {
    "classified": [{"after": int, "right": [(int, float)]}],
    "fisher": {which: {name: [(int, float)] for name in ("A", "B")} for which in ("without", "with")},
}
"""What results may have besides."""


@cache
def program() -> str:
    """Return this program's version and a digest of its files: figures of one version can be of several states of it.

    Call it when a cell begins: files may change meanwhile.
    """
    root = Path(conceptctl.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for pattern in ("*.py", "*.toml") for path in root.rglob(pattern)):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return f"{conceptctl.__version__}, files {digest.hexdigest()[:12]}"


def write_file(path: Path, data: bytes) -> None:
    """Write a file that is whole or not there."""
    durable.replace_file(path, data, path.parent, mode=0o644)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file that is whole or not there, as JSON."""
    write_file(path, f"{json.dumps(value, separators=(',', ':'))}\n".encode())


def write_results(path: Path, value: Mapping[str, Any]) -> None:
    """Write the results of a cell, figures to `DIGITS` digits; what decides them, under "cell", stays as it is."""
    write_json(path, {name: each if name == "cell" else _rounded(each) for name, each in value.items()})


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


def read_noted(path: Path, *keys: str) -> dict[str, Any]:
    """Read a file of a benchmark.

    Args:
        path: The file.
        keys: What must be in it.

    Raises:
        StoreDamaged: It is not as it was written.
    """
    hint = "take the file away and run the cell again"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise StoreDamaged(f"{path}: {error}", hint=hint) from None
    if not isinstance(found, dict) or not set(keys) <= set(found):
        raise StoreDamaged(f"{path}: not what a benchmark wrote", hint=hint)
    return found


def read_run(path: Path) -> dict[str, Any]:
    """Read which cells belong to a spec, and the spec.

    Raises:
        StoreDamaged: It is not as it was written.
    """
    found = read_noted(path)
    spec = found.get("spec")
    shape = {"spec": _SPEC if isinstance(spec, dict) and "kind" in spec else {**_SPEC, **_COMPARED}, "cells": dict}
    where = _odd(found, shape)
    if not where and not all(isinstance(key, str) for key in found["cells"].values()):
        where = "one of 'cells' is no text"
    values = found["spec"].get("paper", {}).get("values", {}) if not where else {}
    if not all(isinstance(each, dict) for each in values.values()):
        where = "one of 'values' is no object"
    if where:
        raise StoreDamaged(
            f"{path} is not what bench run wrote: {where}",
            hint="take the file away and run the spec again: cells that are finished are not run again",
        )
    return found


def read_results(path: Path, *, classes: bool) -> dict[str, Any]:
    """Read the results of a cell.

    Args:
        path: The file.
        classes: Whether classes were learned, and not concepts.

    Raises:
        StoreDamaged: It is not as it was written: cut off, or changed so that nothing can be read off it.
    """
    hint = (
        f"put {path.name} back as it was, or take it away: bench run then goes on from what else the cell's folder has"
    )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise StoreDamaged(f"{path} is cut off, or was changed: {error}", hint=hint) from None
    where = _odd(found, _CLASSES if classes else _CONCEPTS) or (_unlike_classes if classes else _unlike_concepts)(found)
    if not where and found["cell"].get("key", path.parent.name) != path.parent.name:
        where = f"it is of the cell {str(found['cell']['key'])[:80]!a}"
    if where:
        raise StoreDamaged(f"{path} is not what bench run wrote: {where}", hint=hint)
    return dict(found)


def _odd(value: Any, shape: Any, where: str = "it") -> str:
    """What of a value is not of a shape, in words; "" where all is."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{where} is no object"
        if absent := [name for name in shape if name not in value]:
            return f"{where} has no {absent[0]!r}"
        return next(filter(None, (_odd(value[name], each, repr(name)) for name, each in shape.items())), "")
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} is no list"
        return next(filter(None, (_odd(each, shape[0], f"one of {where}") for each in value)), "")
    is_odd = not isinstance(value, shape) or (isinstance(value, int) and abs(value) >= _TOO_LARGE)
    return f"{where} cannot be {str(value)[:40]!a}" if is_odd else ""


def _unlike_concepts(found: Mapping[str, Any]) -> str:
    """What of results does not fit together."""
    count = len(found["concepts"])
    if not count or {len(found["learned"]), len(found["tasks"])} != {count}:
        return "'concepts', 'learned' and 'tasks' are not of one length"
    if any(len(each["figures"]) != each["after"] for each in found["evaluations"]):
        return "one of 'evaluations' has not as many figures as concepts"
    if found["evaluations"] and found["evaluations"][-1]["after"] != count:
        return "the last of 'evaluations' is not of all concepts"
    if not all(isinstance(each, _NUMBER) for each in (found["pairs"] or {}).values()):
        return "one of 'pairs' is no number"
    for name, shape in _CHECKS.items():
        if name in found and (odd := _odd(found[name], shape, repr(name))):
            return odd
    times = [each["after"] for each in found["evaluations"]]
    if "classified" in found and [each["after"] for each in found["classified"]] != times:
        return "'classified' is not of when all were drawn"
    if any(len(each["right"]) != each["after"] for each in found.get("classified", ())):
        return "one of 'classified' has not as many shares as concepts"
    return _unlike_its_key(found["cell"])


def _unlike_classes(found: Mapping[str, Any]) -> str:
    sizes = [len(task["labels"]) for task in found["tasks"]]
    if not sizes or not all(sizes):
        return "'tasks' holds none, or one without 'labels'"
    for number, task in enumerate(found["tasks"], 1):
        if [len(each) for each in task["answers"]] != sizes[:number]:
            return "'answers' are not as many as 'labels'"
    return _unlike_its_key(found["cell"])


def _unlike_its_key(cell: Mapping[str, Any]) -> str:
    """Whether what decides a result is what the cell's key was made of."""
    content = {name: each for name, each in cell.items() if name != "key"}
    if "key" not in cell or cell["key"] == key_of(cell["method"], cell.get("seed", 0), content):
        return ""
    return "'cell' is not what its key was made of"
