"""Whether the program would take a command line: its verbs, options and arguments, without doing anything."""

from __future__ import annotations

import re
import shlex
from functools import cache
from typing import Any

import typer

from conceptctl.cli import app
from tests.docs.pages import ROOT, is_ours, without_comment

_SCRIPT = re.compile(r"^(?:python )?(benchmarks/\w+\.(?:py|sh)|docs/scripts/\w+\.py)(?: (.*))?$")


@cache
def _program() -> Any:
    return typer.main.get_command(app.build())


@cache
def _commands() -> dict[str, Any]:
    context = _program().make_context("conceptctl", [], resilient_parsing=True)
    return {verb: _program().get_command(context, verb) for verb in app.VERBS}


def parse(command: str) -> None:
    """Let the program read a command line.

    Raises:
        typer.TyperException: It has an option, a verb or an argument that the program does not.
    """
    words = shlex.split(command)[1:]
    owner, parent, called = _program(), None, "conceptctl"
    while hasattr(owner, "commands"):
        if words and words[0] in ("--version", "--help", "--install-completion"):
            return
        parent = owner.make_context(called, list(words), parent=parent)
        called, owner, words = owner.resolve_command(parent, [*parent._protected_args, *parent.args])
    if "--help" not in words:
        owner.make_context(called, list(words), parent=parent)


def understands(commands: list[str]) -> bool:
    """Whether this version has every verb and option of some commands."""
    try:
        for command in commands:
            plain, _ = without_comment(command)
            if is_ours(plain):
                parse(plain)
    except typer.TyperException:
        return False
    return True


def options(verb: str | None = None) -> set[str]:
    """The options of one verb, or of the program and all its verbs."""
    owners = [_commands()[verb]] if verb else [_program(), *_commands().values()]
    owners += [each for owner in owners for each in getattr(owner, "commands", {}).values()]
    return {"--help", *(each for owner in owners for parameter in owner.params for each in parameter.opts)}


def verbs() -> set[str]:
    return set(_commands())


def is_script(command: str) -> bool:
    """Whether a command is one of the repository's scripts."""
    return bool(_SCRIPT.match(command))


def parse_script(command: str) -> None:
    """Look for a script's options in it."""
    found = _SCRIPT.match(command)
    assert found
    source = (ROOT / found[1]).read_text(encoding="utf-8")
    for option in re.findall(r"--[a-z-]+", found[2] or ""):
        assert f'"{option}"' in source, f"{found[1]} has no {option}"
