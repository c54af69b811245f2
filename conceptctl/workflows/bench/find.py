"""The spec that a user names: of methods that draw concepts, or of those that tell classes apart."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

from conceptctl.errors import NotFound, UsageError
from conceptctl.workflows.bench import spec as drawn
from conceptctl.workflows.bench.classification import spec as classification
from conceptctl.workflows.bench.classification.spec import ClassSpec
from conceptctl.workflows.bench.spec import Spec, texts_of


def shipped() -> dict[str, Spec | ClassSpec]:
    """Every spec that this program brings, by name."""
    return {**drawn.shipped(), **classification.shipped()}


def toml_of(name: str) -> str:
    """Return a shipped spec as it is written.

    Raises:
        NotFound: There is none of that name.
    """
    for package in (drawn.__package__, classification.__package__):
        if name in (texts := texts_of(package)):
            return texts[name]
    raise NotFound(f"no spec {name!r} is shipped", hint=", ".join(shipped()))


def find_spec(named: str) -> Spec | ClassSpec:
    """Return one of the shipped specs, or that of a TOML file.

    A relative folder of pictures in a file is taken from where the file is.

    Raises:
        NotFound: There is neither.
        UsageError: The file is no spec.
    """
    if (known := shipped().get(named)) is not None:
        return known
    path = Path(named)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise NotFound(f"there is no spec {named!r}", hint=f"specs: {', '.join(shipped())}, or a TOML file") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a spec: {error}") from None
    of_classes = document.get("kind") == classification.KIND
    spec: Spec | ClassSpec = (classification if of_classes else drawn).parsed(path.stem, document)
    if not spec.data.folder:
        return spec
    folder = str(path.parent / spec.data.folder)
    # By kind: a type checker knows no `replace` of either.
    if isinstance(spec, ClassSpec):
        return replace(spec, data=replace(spec.data, folder=folder))
    return replace(spec, data=replace(spec.data, folder=folder))
