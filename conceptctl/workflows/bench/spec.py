"""What a benchmark is made of: methods, a sequence of concepts, seeds and a protocol, as TOML.

The specs beside this package (`specs/*.toml`) follow the tables of the papers; a user's own are files of the same form.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from conceptctl.errors import UsageError

FIGURES = ("A_mmd", "F_mmd", "P_mmd", "BwT_mmd", "kid", "clip_i2i", "n_param_trained", "n_param_stored")
"""What the papers' tables report, in the units of this program: MMD and KID x 10^3, cosines, % of the U-Net."""
MOST_CONCEPTS = 10_000
_MOST = 10**5
_AT_MOST = {
    "steps": 10**7, "sampling_steps": 1000, "batch_size": 10**4,
    "evaluations": MOST_CONCEPTS, "concepts": MOST_CONCEPTS,
}  # fmt: skip
"""Of the numbers of a protocol, or of data: more no machine gets through, and no noise schedule has more steps."""
_FORMULAS = ("=", "+", "-", "@")
"""What spreadsheets read as a formula, where a text begins with it."""
_LARGEST = 1e300
_KEYS = {
    "title", "description", "base", "feature_extractor", "reference", "seeds", "settings", "precision", "data",
    "protocol", "methods", "paper",
}  # fmt: skip


@dataclass(frozen=True)
class Protocol:
    """How much is learned and drawn; `None` leaves the number to the base's preset, or to the method."""

    name: str
    steps: int | None = None
    """Optimizer steps of a concept, whatever the method."""
    batch_size: int | None = None
    """The concept's pictures in a step; auxiliary ones come beside them."""
    pictures: int | None = None
    """Drawn of each concept whenever it is measured."""
    sampling_steps: int | None = None
    """Denoising steps of a picture."""
    evaluations: int = 4
    """How often, evenly over the sequence and at its end, every concept so far is drawn again."""
    pairs: int = 0
    """Pairs of neighbours in the sequence that are drawn together at the end."""
    classified: int = 0
    """Noises and times at which every training picture so far is classified by its scores, whenever all are drawn."""
    fisher: int = 0
    """Batches of the Fisher matrix whose largest eigenvalues are told at the end, of a method that has one."""


PROTOCOLS = {
    # Four pictures in a step, with the auxiliary one that the bundled base's preset asks for.
    "quick": Protocol("quick", steps=180, batch_size=3, pictures=24, sampling_steps=12, evaluations=3),
    "full": Protocol("full", pairs=8),
}
"""By name: a cheap one that still tells methods apart, and the presets' own numbers."""


@dataclass(frozen=True)
class Data:
    """Where concepts come from: the bundled world, or a folder of folders."""

    concepts: int | None = None
    """How many: of a folder the first so many, all by default."""
    kinds: tuple[str, ...] = ()
    """Kinds of the bundled world, in equal parts; people and waterfalls by default."""
    folder: str = ""
    """Holds NAME/train and NAME/heldout for each concept, and concepts.json with its class; not the bundled world."""
    train: int = 12
    """Training pictures of each concept of the bundled world."""
    heldout: int = 40
    """Held-out pictures of each."""


@dataclass(frozen=True)
class Entry:
    """One row of a table: a method with its settings."""

    label: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False
    """Each concept is learned from the base, in a model of its own: an upper bound, in which nothing is forgotten."""
    joint: bool = False
    """Everything is learned at once: an upper bound, which nothing is learned after."""

    @property
    def in_sequence(self) -> bool:
        """Whether one thing is learned after the other."""
        return not (self.alone or self.joint)


@dataclass(frozen=True)
class Paper:
    """What a paper's table says, in the units of `FIGURES`."""

    source: str = ""
    values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By the label of the entry."""


@dataclass(frozen=True)
class Spec:
    """One benchmark."""

    name: str
    title: str
    description: str
    entries: tuple[Entry, ...]
    data: Data
    seeds: tuple[int, ...] = (0,)
    protocol: Protocol = PROTOCOLS["quick"]
    base: str = "pocket"
    """What `init --base` takes."""
    feature_extractor: str | None = None
    """A CLIP model: a folder or a hub id; the base's own by default."""
    precision: str | None = None
    """As `learn --mixed-precision` has them; what each machine is fast in by default."""
    reference: str = ""
    """The label of the entry that every other is compared with."""
    paper: Paper = Paper()

    def with_(
        self,
        *,
        protocol: str | None = None,
        base: str | None = None,
        folder: str | None = None,
        feature_extractor: str | None = None,
    ) -> Spec:
        """The same comparison in another place: of another base, of a user's pictures, or in more detail.

        What a spec checks beside stays checked, whatever the protocol.

        Raises:
            UsageError: There is no such protocol.
        """
        made, own = self, self.protocol
        if protocol and protocol != own.name:
            other = _protocol(f"spec {self.name}", protocol)
            pairs = max(own.pairs, other.pairs)
            other = replace(other, pairs=pairs, classified=own.classified, fisher=own.fisher)
            made = replace(made, protocol=other)
        if base:
            made = replace(made, base=base)
        if folder:
            made = replace(made, data=replace(self.data, folder=folder, kinds=()))
        if feature_extractor:
            made = replace(made, feature_extractor=feature_extractor)
        return made


@cache
def shipped() -> Mapping[str, Spec]:
    """Every spec that this program brings, by name."""
    return {name: parsed(name, tomllib.loads(text)) for name, text in texts_of(__package__).items()}


def texts_of(package: str) -> dict[str, str]:
    """Read the specs that a package brings in its folder `specs`, by name, as they are written."""
    files = sorted(resources.files(package).joinpath("specs").iterdir(), key=lambda file: file.name)
    named = {file.name.removesuffix(".toml"): file for file in files if file.name.endswith(".toml")}
    return {name: file.read_text(encoding="utf-8") for name, file in named.items()}


def parsed(name: str, value: Mapping[str, Any]) -> Spec:
    """Make a spec of a TOML document.

    Raises:
        UsageError: It cannot be one; names the key.
    """
    what = f"spec {name}"
    if unknown := sorted(set(value) - _KEYS):
        raise UsageError(f"{what}: nothing is called {unknown[0]!r}", hint="; ".join(sorted(_KEYS)))
    texts = {
        key: text_of(what, key, value)
        for key in ("title", "description", "base", "feature_extractor", "precision", "reference")
    }
    shared = settings_of(f"{what}: settings", value.get("settings", {}))
    entries = tuple(rows_of(what, value.get("methods"), shared, ("alone", "joint")))
    labels = [each.label for each in entries]
    reference = texts["reference"] or labels[0]
    if reference not in labels:
        raise UsageError(f"{what}: reference is {reference!r}, and no method is called so", hint=", ".join(labels))
    return Spec(
        name=name,
        title=texts["title"] or name,
        description=texts["description"],
        entries=entries,
        data=_data(what, value.get("data")),
        seeds=seeds_of(what, value.get("seeds", [0])),
        protocol=_protocol(what, value.get("protocol", "quick")),
        base=texts["base"] or Spec.base,
        feature_extractor=texts["feature_extractor"] or None,
        precision=texts["precision"] or None,
        reference=reference,
        paper=_paper(what, value.get("paper", {}), labels),
    )


def whole_path(named: str) -> str:
    """Return what names a model: a folder's or a file's whole path, wherever this runs, and a hub id as it is."""
    path = Path(named)
    return str(path.resolve()) if named and path.exists() else named


def text_of(what: str, key: str, value: Mapping[str, Any]) -> str:
    """Read a text of a table; "" where there is none.

    Raises:
        UsageError: It is no text.
    """
    text = value.get(key, "")
    if not isinstance(text, str) or not text.isprintable():
        raise UsageError(f"{what}: {key} is no text of one line")
    return text


def table_of(what: str, value: Any) -> Mapping[str, Any]:
    """Read a table.

    Raises:
        UsageError: It is none.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"{what} is no table", hint=f"[{what.rpartition(': ')[2]}]")
    return value


def _numbers(what: str, kind: type, table: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a table that are whole numbers of 1 or more."""
    known = {each.name: each for each in fields(kind)}
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"{what}: nothing is called {key!r}", hint="; ".join(known))
        least = 0 if key in ("pairs", "classified", "fisher") else 2 if key in ("pictures", "heldout") else 1
        most = _AT_MOST.get(key, _MOST)
        if type(value) is not int or not least <= value <= most:
            raise UsageError(f"{what}.{key} is a whole number from {least} to {most}, not {str(value)[:40]}")
    return dict(table)


def _protocol(what: str, value: Any) -> Protocol:
    """A protocol by name, or a table whose fields come over those of the one that `like` names."""
    table = {"like": value} if isinstance(value, str) else dict(table_of(f"{what}: protocol", value))
    like = table.pop("like", "quick")
    if not isinstance(like, str) or like not in PROTOCOLS:
        raise UsageError(f"{what}: there is no protocol {like!r}", hint=", ".join(PROTOCOLS))
    given = _numbers(f"{what}: protocol", Protocol, {key: each for key, each in table.items() if key != "name"})
    return replace(PROTOCOLS[like], name="own" if given else like, **given)


def _data(what: str, value: Any) -> Data:
    table = dict(table_of(f"{what}: data", value))
    kinds, folder = table.pop("kinds", []), table.pop("folder", "")
    if not isinstance(folder, str) or not isinstance(kinds, list) or not all(isinstance(each, str) for each in kinds):
        raise UsageError(f"{what}: data.folder is a text, data.kinds a list of texts")
    made = Data(kinds=tuple(kinds), folder=folder, **_numbers(f"{what}: data", Data, table))
    if folder and (only := sorted({"kinds", "train", "heldout"} & set(value))):
        raise UsageError(
            f"{what}: data has {only[0]}, which the bundled world has, and a folder", hint="one of the two"
        )
    if not folder and made.concepts is None:
        raise UsageError(f"{what}: data does not say how many concepts", hint="[data] concepts = 6")
    return made


def seeds_of(what: str, value: Any) -> tuple[int, ...]:
    """Read the seeds of a spec.

    Raises:
        UsageError: They are no seeds, or one stands twice.
    """
    if not isinstance(value, list) or not value or not all(type(each) is int and 0 <= each < 2**31 for each in value):
        raise UsageError(f"{what}: seeds is a list of whole numbers from 0 on", hint="seeds = [0, 1, 2]")
    if len(set(value)) < len(value):
        raise UsageError(f"{what}: a seed stands twice in seeds")
    return tuple(value)


def settings_of(what: str, value: Any) -> Mapping[str, Any]:
    """Read settings of a method, by name: whether it has them is for the method to say.

    Raises:
        UsageError: One can be no setting.
    """
    table = table_of(what, value)
    if odd := [key for key, each in table.items() if not isinstance(each, int | float | str)]:
        raise UsageError(f"{what}.{odd[0]} is no number and no word")
    return dict(table)


def rows_of(what: str, value: Any, shared: Mapping[str, Any], bounds: Sequence[str]) -> Iterator[Entry]:
    """Read the rows of a spec.

    Args:
        what: The spec, for messages.
        value: Tables by label.
        shared: Settings of every row.
        bounds: Which upper bounds a row may be, by their keys in `Entry`.

    Raises:
        UsageError: There is no row, or one is none.
    """
    if not isinstance(value, Mapping) or not value:
        raise UsageError(f"{what}: it compares no methods", hint="[methods.stamina]")
    for label, given in value.items():
        here = f"{what}: methods.{label}"
        table = table_of(here, given)
        if unknown := sorted(set(table) - {"method", "settings", *bounds}):
            raise UsageError(
                f"{here}: nothing is called {unknown[0]!r}", hint="; ".join(("method", "settings", *bounds))
            )
        if not label.isprintable() or "/" in label or label.startswith(_FORMULAS):
            raise UsageError(
                f"{what}: methods.{label!a}: a label is of one line, has no slash, and does not begin with =, +, - or @"
            )
        holds = {name: table.get(name, False) for name in bounds}
        if odd := [name for name, each in holds.items() if type(each) is not bool]:
            raise UsageError(f"{here}: {odd[0]} is true or false")
        if sum(holds.values()) > 1:
            raise UsageError(f"{here}: it is {' and '.join(bounds)}", hint="one of them, or a row for each")
        own = settings_of(f"{here}.settings", table.get("settings", {}))
        yield Entry(label, text_of(here, "method", table) or label, {**shared, **own}, **holds)


def _paper(what: str, value: Any, labels: list[str]) -> Paper:
    table = table_of(f"{what}: paper", value)
    if unknown := sorted(set(table) - {"source", "values"}):
        raise UsageError(f"{what}: paper: nothing is called {unknown[0]!r}", hint="source; values")
    values = table_of(f"{what}: paper.values", table.get("values", {}))
    for label, row in values.items():
        if label not in labels:
            raise UsageError(f"{what}: paper.values.{label}: no method is called so", hint=", ".join(labels))
        for key, number in table_of(f"{what}: paper.values.{label}", row).items():
            if key not in FIGURES or type(number) not in (int, float) or not abs(number) < _LARGEST:
                raise UsageError(f"{what}: paper.values.{label}.{key} = {number!r}", hint=", ".join(FIGURES))
    return Paper(text_of(f"{what}: paper", "source", table), {label: dict(row) for label, row in values.items()})
