"""Presets: what a method needs on a base, as data.

Every file beside this one is a preset. A base has its own: the one that names it, or else the one of its family. It
says how the base draws and what learning on it takes; `learn --preset` puts the `[learn]` and `[methods]` of another
over it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from conceptctl.errors import NotFound, UsageError
from conceptctl.families import facts_of, find_family
from conceptctl.store.manifest import Base

BUNDLED = "bundled"
"""The feature extractor, and the judge, that this program brings with its base."""
EVERY_METHOD = "all"
AUTO = "auto"
"""As many steps as it takes."""
_OF_SIZE = frozenset({"mask"})
"""Settings that say what fits in memory on a base, which a preset for any base cannot know."""


@dataclass(frozen=True)
class Sampling:
    """How a base draws."""

    steps: int = 50
    """Denoising steps of a picture."""
    guidance: float = 7.5
    """Scale of classifier-free guidance."""


@dataclass(frozen=True)
class Learn:
    """What learning takes, whatever the method."""

    method: str = "stamina"
    """The method that learns unless another is asked for."""
    auxiliary: int = 200
    """Pictures of the class, drawn by the base itself, that learning is regularized with (prior preservation)."""
    sampling_steps: int = 0
    """Denoising steps of the pictures that learning draws, where the base's own are more; 0 for as many."""
    reference_samples: int = 50
    """Pictures whose features are kept when a concept has been learned: what forgetting is measured against."""
    smallest_side: int = 0
    """Shorter side that a training picture must have, in pixels; 0 for the base's own size."""
    feature_extractor: str = BUNDLED
    """Whose features metrics compare: a hub id of a CLIP model, or `bundled`."""
    feature_extractor_revision: str = ""
    """The commit of it."""
    judge: str = ""
    """What reads off pictures which details of a concept they show: `bundled`, or nothing."""
    photographs: bool = True
    """Whether the base draws photographs."""
    slow_on_cpu: bool = False
    """Whether a CPU takes hours."""
    epochs: int = 0
    """How often each picture of a task is drawn, where classes are learned; drawn concepts are learned by steps."""
    classes: tuple[str, ...] = ()
    """Every kind of thing that the base draws, where these are few."""


@dataclass(frozen=True)
class Preset:
    """A preset; `methods` has settings by the method's name, those of `all` for every one."""

    name: str
    description: str = ""
    family: str = ""
    base: str = ""
    sampling: Sampling = Sampling()
    learn: Learn = Learn()
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    given: frozenset[str] = frozenset()
    """What of `learn` the file says."""

    @property
    def drawing(self) -> Sampling:
        """How learning draws the pictures that it needs."""
        most = self.learn.sampling_steps or self.sampling.steps
        return replace(self.sampling, steps=min(self.sampling.steps, most))

    @property
    def evaluations_a_picture(self) -> int:
        """Passes through the network that drawing one of them takes; guidance doubles them where it is a second one."""
        guided = self.drawing.guidance > 1 and (not self.family or find_family(self.family).NEGATIVE_PROMPTS)
        return self.drawing.steps * (2 if guided else 1)

    def settings(self, method: str) -> dict[str, Any]:
        """What a method is set to."""
        return as_settings({**self.methods.get(EVERY_METHOD, {}), **self.methods.get(method, {})})

    def under(self, other: Preset) -> Preset:
        """This base's preset with another one's `[methods]`, and what its `[learn]` says of pictures, over it.

        What the base's size asks for stays unless the other one says it too.
        """
        over = ("method", "auxiliary", "reference_samples")
        said = {name: getattr(other.learn, name) for name in over if name in other.given}
        methods = {name: dict(settings) for name, settings in other.methods.items()}
        for method, settings in self.methods.items():
            for name in _OF_SIZE & settings.keys() - other.methods.get(EVERY_METHOD, {}).keys():
                methods.setdefault(method, {}).setdefault(name, settings[name])
        return replace(self, name=other.name, learn=replace(self.learn, **said), methods=methods)


def as_settings(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by the names that methods have for them.

    `steps = "auto"` is `stopping = "auto"`, and `max_train_steps` are the most `steps`, whatever ends a training.

    Raises:
        UsageError: Steps are neither a number nor `auto`, or the most of them are no number of 1 or more.
    """
    steps, most = said.get("steps"), said.get("max_train_steps")
    if isinstance(steps, str) and steps != AUTO:
        raise UsageError(f"steps are a whole number or {AUTO}, not {steps!a}", hint=f"--steps 500, or --steps {AUTO}")
    if most is not None and (type(most) is not int or most < 1):
        raise UsageError(f"max train steps are a whole number from 1 on, not {most!a}", hint="--max-train-steps 500")
    found = {name: value for name, value in said.items() if name != "max_train_steps"}
    if found.get("steps") == AUTO:
        del found["steps"]
        found["stopping"] = AUTO
    if most is not None:
        found["steps"] = min(most, steps) if type(steps) is int else most
    return found


@cache
def shipped() -> Mapping[str, Preset]:
    """Every preset that this program brings, by name."""
    files = sorted(resources.files(__name__).iterdir(), key=lambda file: file.name)
    named = {file.name.removesuffix(".toml"): file for file in files if file.name.endswith(".toml")}
    return {name: _parsed(name, tomllib.loads(file.read_text(encoding="utf-8"))) for name, file in named.items()}


def preset_of(base: Base) -> Preset:
    """Return the preset of a store's base: the one that names it, or that of its family."""
    return preset_for(facts_of(base).name, base.name)


def preset_for(family: str, base: str) -> Preset:
    """Return the preset of a base by the names of both: the base's, or that of its family."""
    ours = [each for each in shipped().values() if each.family == family]
    return next((each for each in ours if each.base == base), next(each for each in ours if not each.base))


def named_preset(named: str) -> Preset:
    """Return the preset that a user names: one of the shipped ones, or a file.

    A file is TOML as the shipped ones are, or the JSON that `learn --dry-run --json` prints.

    Raises:
        NotFound: There is neither.
        UsageError: The file is no preset.
    """
    if named in shipped():
        return shipped()[named]
    path = Path(named)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise UsageError(f"{path}: not a preset: not a regular file")
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise NotFound(f"there is no preset {named!r}", hint=f"presets: {', '.join(shipped())}, or a file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a preset: {error}") from None
    try:
        value = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a preset: neither TOML nor JSON: {error}") from None
    if isinstance(value, Mapping) and isinstance(value.get("plan"), Mapping):
        # All that `learn --dry-run --json` says; the preset is one part of it.
        value = value["plan"].get("preset", {})
    return _parsed(path.stem, value)


def _parsed(name: str, value: Any) -> Preset:
    if not isinstance(value, Mapping) or not value:
        raise UsageError(f"preset {name}: it says nothing", hint="[learn], [methods.NAME]; or --preset paper")
    texts = {key: value[key] for key in ("description", "family", "base") if key in value}
    if odd := [key for key, text in texts.items() if not isinstance(text, str)]:
        raise UsageError(f"preset {name}: {odd[0]} is no text")
    tables = {"sampling": Sampling, "learn": Learn}
    if unknown := sorted(set(value) - {*texts, *tables, "methods", "name"}):
        raise UsageError(f"preset {name}: nothing is called {unknown[0]!r}", hint="[sampling], [learn], [methods.NAME]")
    parts: dict[str, Any] = {
        key: _table(f"preset {name}: {key}", kind, value.get(key, {})) for key, kind in tables.items()
    }
    methods = value.get("methods", {})
    if not isinstance(methods, Mapping) or not all(isinstance(each, Mapping) for each in methods.values()):
        raise UsageError(f"preset {name}: settings stand in [methods.NAME], or in [methods.{EVERY_METHOD}]")
    return Preset(name, methods=methods, given=frozenset(value.get("learn", {})), **texts, **parts)


def _table(what: str, kind: type, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise UsageError(f"{what} is no table")
    known = {each.name: type(each.default) for each in fields(kind)}
    for key, given in value.items():
        if key not in known:
            raise UsageError(f"{what}: nothing is called {key!r}", hint="; ".join(known))
        fits = type(given) is known[key] or (known[key] is float and type(given) is int)
        if known[key] is tuple:
            fits = isinstance(given, list) and all(isinstance(each, str) for each in given)
        if not fits or (isinstance(given, int | float) and given < 0):
            raise UsageError(f"{what}.{key} cannot be {given!r}")
    return kind(**{key: tuple(given) if isinstance(given, list) else given for key, given in value.items()})
