"""Cells: one method, one seed, and everything that decides the result, which is its name on the disk."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

from conceptctl.errors import NotFound
from conceptctl.workflows.bench.spec import Entry

CELLS, DATA = "cells", "data"
"""Folders of an output folder."""
RESULTS, FAILED = "results.json", "failed.json"
"""What a cell's folder holds, of whatever kind it is."""

Tell = Callable[[str, int], None]
"""Told what goes on, and how many concepts have been learned and measured."""


@dataclass(frozen=True)
class Cell:
    """One method and one seed."""

    MEASURED: ClassVar[str]
    """What is written of each concept, or task, that has been learned and measured."""

    label: str
    """What its row is called; it decides nothing."""
    method: str
    seed: int
    concepts: int
    """How many concepts, or tasks, there are to learn."""
    content: Mapping[str, Any]
    """What decides its result, as plain data."""

    @property
    def name(self) -> str:
        """What it is called among the cells of its spec."""
        return f"{self.label}/{self.seed}"

    @property
    def key(self) -> str:
        """What its folder is called: cells of one content are one cell."""
        return key_of(self.method, self.seed, self.content)

    def home(self, output: Path) -> Path:
        """Its folder in an output folder."""
        return output / CELLS / self.key

    def learned(self, output: Path) -> int:
        """How many of its concepts have been learned and measured."""
        if (self.home(output) / RESULTS).exists():
            return self.concepts
        return len(list(self.home(output).glob(self.MEASURED)))


def key_of(method: str, seed: int, content: Mapping[str, Any]) -> str:
    """What the folder of a cell is called, given what decides its result."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    slug = re.sub(r"[^a-z0-9]+", "-", method.replace("+", "p"))
    return f"{slug}-{seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def chosen(
    name: str, entries: Sequence[Entry], seeds: Sequence[int], patterns: Sequence[str], methods: Mapping[str, str]
) -> list[tuple[Entry, int]]:
    """Return the cells that patterns name, as rows and seeds; all where there is no pattern.

    Args:
        name: The spec's.
        entries: Its rows.
        seeds: Its seeds.
        patterns: LABEL/SEED, or LABEL, with `*` for anything.
        methods: Every method that can learn what the spec is about.

    Raises:
        NotFound: A pattern names none, or there is no such method.
    """
    every = [(entry, seed) for entry in entries for seed in seeds]
    for pattern in patterns:
        if not any(_matches(entry, seed, pattern) for entry, seed in every):
            labels = ", ".join(entry.label for entry in entries)
            raise NotFound(f"no cell of {name} is called {pattern!r}", hint=f"LABEL/SEED; labels: {labels}")
    found = [each for each in every if not patterns or any(_matches(*each, pattern) for pattern in patterns)]
    unknown = [entry for entry, _ in found if entry.method not in methods]
    if unknown:
        names = ", ".join(dict.fromkeys(repr(entry.method) for entry in unknown))
        raise NotFound(
            f"spec {name}: there is no method {names} for what it compares",
            hint=f"methods: {', '.join(methods)}; or --cells with the rows that can be run",
        )
    return found


def _matches(entry: Entry, seed: int, pattern: str) -> bool:
    names = (entry.label, f"{entry.label}/{seed}")
    # A label may have brackets, which mean something else in a pattern.
    return pattern in names or any(fnmatchcase(name, pattern) for name in names)
