"""What a comparison of classifiers is made of, as TOML with `kind = "classification"`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from conceptctl.errors import UsageError
from conceptctl.workflows.bench.spec import Entry, rows_of, seeds_of, settings_of, table_of, text_of, texts_of

KIND = "classification"
_KEYS = {"kind", "title", "description", "base", "reference", "seeds", "settings", "data", "protocol", "methods"}
_MOST_TASKS = 1000


@dataclass(frozen=True)
class Protocol:
    """How much is learned; 0 leaves the number to the base's preset."""

    name: str = "preset"
    epochs: int = 0
    """How often each picture of a task is drawn."""
    batch_size: int = 0
    """Pictures in a step."""


@dataclass(frozen=True)
class Data:
    """Where classes come from: rendered styles of the bundled world, or a folder of folders."""

    tasks: int = 20
    """Into how many tasks classes are dealt out."""
    folder: str = ""
    """One folder for each class, or train/CLASS and test/CLASS."""
    learned: int = 0
    """Only the first so many tasks are learned; 0 for all."""

    @property
    def tasks_learned(self) -> int:
        """How many tasks are learned."""
        return self.learned or self.tasks


@dataclass(frozen=True)
class ClassSpec:
    """One comparison."""

    name: str
    title: str
    description: str
    entries: tuple[Entry, ...]
    data: Data = Data()
    seeds: tuple[int, ...] = (0,)
    protocol: Protocol = Protocol()
    base: str = ""
    """A folder or a hub id of a vision transformer; the bundled one by default."""
    reference: str = ""
    """The label of the entry that is shown first."""
    kind: str = KIND

    def with_(self, *, base: str | None, folder: str | None, others: Mapping[str, Any]) -> ClassSpec:
        """The same comparison of another base, or of a user's pictures.

        Args:
            base: As in the spec.
            folder: As in `Data`.
            others: Options that are meant for comparisons of drawn concepts, by name; None for what is not given.

        Raises:
            UsageError: One of those is given.
        """
        if given := [name for name, value in others.items() if value is not None]:
            raise UsageError(f"{given[0]} means nothing to {self.name}, which draws no pictures")
        made = replace(self, base=base) if base else self
        return replace(made, data=replace(made.data, folder=folder)) if folder else made


@cache
def shipped() -> Mapping[str, ClassSpec]:
    """Every such spec that this program brings, by name."""
    return {name: parsed(name, tomllib.loads(text)) for name, text in texts_of(__package__).items()}


def parsed(name: str, value: Mapping[str, Any]) -> ClassSpec:
    """Make a spec of a TOML document.

    Raises:
        UsageError: It cannot be one; names the key.
    """
    what = f"spec {name}"
    if unknown := sorted(set(value) - _KEYS):
        raise UsageError(f"{what}: nothing is called {unknown[0]!r}", hint="; ".join(sorted(_KEYS)))
    texts = {key: text_of(what, key, value) for key in ("title", "description", "base", "reference")}
    shared = settings_of(f"{what}: settings", value.get("settings", {}))
    entries = tuple(rows_of(what, value.get("methods"), shared, ("joint",)))
    labels = [each.label for each in entries]
    if texts["reference"] not in ("", *labels):
        raise UsageError(f"{what}: reference is {texts['reference']!r}, and no method is called so", hint=str(labels))
    protocol = _numbers(f"{what}: protocol", Protocol, value.get("protocol", {}))
    data = dict(table_of(f"{what}: data", value.get("data", {})))
    folder = text_of(f"{what}: data", "folder", data)
    data.pop("folder", None)
    made = Data(folder=folder, **_numbers(f"{what}: data", Data, data))
    if not 1 <= made.tasks <= _MOST_TASKS:
        raise UsageError(f"{what}: data.tasks is a number from 1 to {_MOST_TASKS}, not {made.tasks}")
    if (made.learned or 0) > made.tasks:
        raise UsageError(f"{what}: data.learned is {made.learned}, and there are {made.tasks} tasks")
    return ClassSpec(
        name=name,
        title=texts["title"] or name,
        description=texts["description"],
        entries=entries,
        data=made,
        seeds=seeds_of(what, value.get("seeds", [0])),
        protocol=Protocol(name="own" if protocol else "preset", **protocol),
        base=texts["base"],
        reference=texts["reference"] or labels[0],
    )


def _numbers(what: str, kind: type, value: Any) -> dict[str, int]:
    table = table_of(what, value)
    known = [each.name for each in fields(kind) if type(each.default) is int]
    for key, number in table.items():
        if key not in known:
            raise UsageError(f"{what}: nothing is called {key!r}", hint="; ".join(known))
        if type(number) is not int or number < 1:
            raise UsageError(f"{what}.{key} is a whole number from 1 on, not {number!r}")
    return dict(table)
