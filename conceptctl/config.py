"""Settings shared by every command: frozen dataclasses, and their defaults from a TOML file."""

import dataclasses
import json
import os
import tomllib
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import platformdirs

from conceptctl.errors import NotFound, UsageError


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a concept is learned. `None` leaves the choice to the base and the method."""

    method: str | None = None
    """Which method learns."""
    steps: int | Literal["auto"] | None = None
    """Optimizer steps; or `auto`, until the concept is learned."""
    max_train_steps: int | None = None
    """The most steps."""
    batch_size: int | None = None
    """Pictures in a step."""
    learning_rate: float | None = None
    """Step size of the adapters."""
    rank: int | None = None
    """Rank of the low-rank adapters."""
    scheduler: str | None = None
    """How learning rates go on, by the name that diffusers has for it."""
    accumulation: int | None = None
    """Portions of `batch_size` in a step."""
    seed: int = 0
    """Seed of everything random."""


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """How pictures are drawn. `None` leaves the choice to the base."""

    steps: int | None = None
    """Denoising steps."""
    guidance: float | None = None
    """Classifier-free guidance scale."""
    negative: str = ""
    """What the picture should not show."""
    seed: int = 0
    """Seed of the first picture; picture i has seed + i."""


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How one picture is drawn, with everything decided."""

    steps: int
    """Denoising steps."""
    guidance: float
    """Scale of classifier-free guidance, 1 or less is none; or what a network is told in its place."""
    negative: str = ""
    """What not to draw, where the base guides by that."""
    size: tuple[int, int] | None = None
    """Width and height in pixels; the base's own by default."""
    sampler: str = ""
    """One of `diffusion.samplers.SAMPLERS`; the base's own by default."""
    low_vram: bool = False
    """Whether to keep off the device what is not at work: see `diffusion.memory_saving`."""


@dataclasses.dataclass(frozen=True)
class Config:
    """All defaults a user can set, one TOML table a field."""

    train: TrainConfig = TrainConfig()
    sample: SampleConfig = SampleConfig()


_FROM_ONE = {"steps", "max_train_steps", "batch_size", "rank", "accumulation"}


def config_path() -> Path:
    """Return where the defaults are kept: `CONCEPTCTL_CONFIG`, or the platform's place for them.

    Raises:
        NotFound: Nobody says where home is.
    """
    named = os.environ.get("CONCEPTCTL_CONFIG")
    return Path(named) if named else at_home(platformdirs.user_config_path, "CONCEPTCTL_CONFIG") / "config.toml"


def at_home(find: Callable[[str], Path], instead: str) -> Path:
    """Return a place that the platform has for programs; `instead` is the hint where a user has no home.

    Raises:
        NotFound: There is neither HOME nor an entry for the user.
    """
    try:
        path = find("conceptctl")
    except RuntimeError:
        path = Path("~")
    if not path.is_absolute():
        raise NotFound("this user has no home folder", hint=instead)
    return path


def load_config(path: Path | None = None) -> Config:
    """Read the defaults; a missing file, or no home, means the built-in ones.

    Raises:
        UsageError: The file is no TOML, or has a key or a value that means nothing here.
    """
    try:
        return _from_tables(_read_tables(path or config_path()))
    except NotFound:
        return Config()


def config_values(config: Config) -> dict[str, Any]:
    """Return every setting as `{"train.steps": 500, ...}`."""
    return {
        f"{table.name}.{name}": value
        for table in dataclasses.fields(config)
        for name, value in dataclasses.asdict(getattr(config, table.name)).items()
    }


def set_value(key: str, text: str | None, path: Path | None = None) -> Config:
    """Store one default, or drop it when `text` is None, and return the new settings.

    Raises:
        UsageError: The file cannot be read, or the value does not fit the key.
        NotFound: There is no such key.
    """
    path = path or config_path()
    known = config_values(Config())
    if key not in known:
        raise unknown_setting(key)
    tables = _read_tables(path)
    table, name = key.split(".")
    if text is None:
        tables.get(table, {}).pop(name, None)
    else:
        tables.setdefault(table, {})[name] = value = _parse(key, text)
        if type(value) is int and value < 1 and name in _FROM_ONE:
            raise UsageError(f"{key} is a whole number from 1 on, not {value}", hint=f"conceptctl config {key} --unset")
    config = _from_tables(tables)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileNotFoundError, FileExistsError) as error:
        raise UsageError(f"{path.parent}: cannot be made: {error.strerror}") from error
    scratch = path.with_suffix(".tmp")
    scratch.write_text(_to_toml(tables), encoding="utf-8")
    scratch.replace(path)
    return config


def unknown_setting(key: str) -> NotFound:
    """Return the error for a setting that does not exist, with those that do."""
    return NotFound(f"no setting is called {key!r}", hint="settings: " + ", ".join(config_values(Config())))


def _read_tables(path: Path) -> dict[str, dict[str, Any]]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        # Daemons live without a home, in /dev/null.
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}") from error


def _from_tables(tables: Mapping[str, Mapping[str, Any]]) -> Config:
    known = {field.name: field.type for field in dataclasses.fields(Config)}
    parts: dict[str, Any] = {}
    for table, values in tables.items():
        if table not in known or not isinstance(values, Mapping):
            raise UsageError(f"settings: nothing is called [{table}]")
        kind = {"train": TrainConfig, "sample": SampleConfig}[table]
        types_of = get_type_hints(kind)
        for name, value in values.items():
            if name not in types_of:
                raise UsageError(f"settings: nothing is called {table}.{name}")
            kinds, words = _accepted(types_of[name])
            if type(value) not in kinds and value not in words:
                raise UsageError(f"settings: {table}.{name} cannot be {value!r}")
        parts[table] = kind(**values)
    return Config(**parts)


def _accepted(hint: Any) -> tuple[tuple[type, ...], tuple[str, ...]]:
    """Return the Python types a TOML value may have for a field (an int will do for a float), and words beside them."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    words = tuple(word for option in options if get_origin(option) is Literal for word in get_args(option))
    kinds = tuple(option for option in options if isinstance(option, type) and option is not type(None))
    return (*kinds, int) if float in kinds else kinds, words


def _parse(key: str, text: str) -> Any:
    table, name = key.split(".")
    hint = get_type_hints({"train": TrainConfig, "sample": SampleConfig}[table])[name]
    kinds, words = _accepted(hint)
    for kind in kinds:
        try:
            return kind(text)
        except ValueError:
            continue
    if text in words:
        return text
    raise UsageError(f"{key} cannot be {text!r}")


def _to_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    # A JSON string, number or boolean is also a TOML one.
    lines: list[str] = []
    for table, values in tables.items():
        if values:
            lines.append(f"[{table}]")
            lines += [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    return "\n".join(lines) + "\n"
