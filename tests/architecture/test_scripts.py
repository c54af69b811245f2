"""Programs beside the package, which no other test runs: some take hours. The type checker reads the package alone."""

import ast
import importlib
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "docs" / "scripts").glob("*.py")])


def missing(source):
    """What is imported of the package and is not there."""
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom) and node.module]
    return [
        f"{node.module}.{each.name}"
        for node in imports
        if node.module.partition(".")[0] == "conceptctl"
        for each in node.names
        if not hasattr(importlib.import_module(node.module), each.name) and not submodule(node.module, each.name)
    ]


def submodule(package, name):
    return hasattr(importlib.import_module(package), "__path__") and find_spec(f"{package}.{name}") is not None


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_what_they_import_of_the_package_is_there(path):
    assert missing(path.read_text(encoding="utf-8")) == []


def test_what_is_not_there_is_found():
    assert missing("from conceptctl.methods.ewc_dc import Config\nfrom conceptctl import pocket") == [
        "conceptctl.methods.ewc_dc.Config"
    ]
