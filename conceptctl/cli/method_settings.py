"""The settings of a method, read from its sources: to import it takes seconds, because it brings torch."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import Any

import conceptctl
from conceptctl.methods import CLASSIFIERS, METHODS


def settings_of(method: str) -> dict[str, str]:
    """Return the settings of a method, in their order, each with what is said about it."""
    module, _, name = {**CLASSIFIERS, **METHODS}[method].partition(":")
    where, node = _class_in(f"methods.{module}", name)
    found = _configuration(where, node)
    assert found is not None
    return _fields(*found)


Place = tuple[str, ast.ClassDef]
"""A class, and the module in the package that it stands in."""


@functools.cache
def _source(module: str) -> ast.Module:
    path = Path(conceptctl.__file__).parent.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_name(f"{path.name}.py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _class_in(module: str, name: str) -> Place:
    """Find a class by the name that a module has for it."""
    for node in _source(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _class_in(node.module.removeprefix("conceptctl."), alias.name)
    raise LookupError(name)


def _resolve(module: str, base: ast.expr) -> Place:
    """Find the class that an expression means: `Config`, or `method.Config` behind an import of the module."""
    if isinstance(base, ast.Name):
        return _class_in(module, base.id)
    assert isinstance(base, ast.Attribute) and isinstance(base.value, ast.Name)
    for node in _source(module).body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == base.value.id for alias in node.names):
            return _class_in(f"{node.module}.{base.value.id}".removeprefix("conceptctl."), base.attr)
    raise LookupError(base.attr)


def _configuration(module: str, node: ast.ClassDef) -> Place | None:
    """Find the class of a method's settings: what it, or what it is derived from, calls `configuration`."""
    for line in node.body:
        target, value = _assigned(line)
        if target == "configuration" and value is not None:
            return _resolve(module, value)
    for base in node.bases:
        try:
            found = _configuration(*_resolve(module, base))
        except (LookupError, AssertionError, OSError):
            continue
        if found:
            return found
    return None


def _assigned(line: ast.stmt) -> tuple[str, ast.expr | None]:
    target: Any = line.target if isinstance(line, ast.AnnAssign) else None
    if isinstance(line, ast.Assign):
        target = line.targets[0]
    return getattr(target, "id", ""), getattr(line, "value", None)


def _fields(module: str, node: ast.ClassDef) -> dict[str, str]:
    found: dict[str, str] = {}
    # As dataclasses do: what comes first among several bases has the last word.
    for base in reversed(node.bases):
        found |= _fields(*_resolve(module, base))
    for line, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(line, ast.AnnAssign):
            prose = following.value if isinstance(following, ast.Expr) else None
            text = str(prose.value) if isinstance(prose, ast.Constant) else ""
            found[_assigned(line)[0]] = " ".join(text.split())
    return found
