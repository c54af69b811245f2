"""Rules of the house that a linter has no name for."""

import ast
import re
from pathlib import Path

import pytest

from conceptctl.families import FAMILIES
from conceptctl.presets import shipped

PACKAGE = Path(__file__).parents[2] / "conceptctl"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
BANNED_CALLS = {"torch.load", "eval", "exec", "extractall", "pickle.load", "pickle.loads"}


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def banned_in(source):
    found = []
    for name, node in calls(ast.parse(source)):
        if name in BANNED_CALLS or name.split(".")[-1] == "extractall":
            found.append(name)
        if any(word.arg == "allow_pickle" for word in node.keywords):
            found.append(f"{name}(allow_pickle)")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_that_runs_code_from_a_file(path):
    assert banned_in(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    ["torch.load(f)", "np.load(f, allow_pickle=True)", "archive.extractall(d)", "eval(text)"],
)
def test_the_ban_sees_what_it_bans(source):
    assert banned_in(source)


def test_no_module_without_a_subject():
    assert [path for path in MODULES if path.stem in {"utils", "helpers", "common"}] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_stay_readable(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 400
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions if node.end_lineno - node.lineno + 1 > 60] == []


LAYOUTS = re.compile(r"unet|attn[12]|to_[kqv]\b|text_encoder|pocket|sdxl|flux|\bvit\b|stable.diffusion", re.IGNORECASE)
"""What models of some family, or some base, call things."""


@pytest.mark.parametrize("room", ["methods", "parts", "learning", "store"])
def test_what_is_of_every_family_names_none(room):
    """Neither in code nor in a string that decides anything; prose may say what something was tried on."""
    found = []
    for path in sorted((PACKAGE / room).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            names = [getattr(node, part, None) for part in ("id", "attr", "name", "arg", "module")]
            if isinstance(node, ast.Constant) and id(node) not in prose:
                names.append(node.value)
            found += [(path.name, name) for name in names if isinstance(name, str) and LAYOUTS.search(name)]
    assert found == []


NAMES = {*FAMILIES, *(preset.base for preset in shipped().values() if preset.base)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_name_of_a_family_or_a_base_decides_anything_elsewhere(path):
    """What differs between bases stands in `families/` and `presets/`; that a base is bundled is what `init` knows."""
    room = path.relative_to(PACKAGE).parts[0]
    if room in ("families", "presets", "pocket") or path == PACKAGE / "workflows" / "init.py":
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # A default that an option's help shows, as in `init --base`, compares nothing.
    compared = [
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        for part in (node.left, *node.comparators)
        if isinstance(part, ast.Constant)
    ]
    keys = [node.slice for node in ast.walk(tree) if isinstance(node, ast.Subscript)]
    assert [each.value for each in (*compared, *keys) if isinstance(each, ast.Constant) and each.value in NAMES] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_complexity_is_not_waved_through(path):
    assert not re.search(r"noqa:.*C901", path.read_text(encoding="utf-8"))
