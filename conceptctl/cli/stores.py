"""What verbs on a store share: finding it, asking before something goes away, and saying sizes."""

import sys
from collections.abc import Iterable
from pathlib import Path

import typer

from conceptctl.cli.output import Output
from conceptctl.errors import UsageError
from conceptctl.store.layout import chosen_root
from conceptctl.store.store import Store


def open_store(option: Path | None) -> Store:
    """Open the store that a user means.

    Raises:
        NotFound: There is none there.
    """
    return Store(chosen_root(option))


def go_on(output: Output, plan: Iterable[str], *, yes: bool, dry_run: bool) -> bool:
    """Show a plan and return whether to carry it out.

    Raises:
        UsageError: Somebody should be asked, and nobody is there.
    """
    for line in plan:
        output.say(line)
    if dry_run:
        output.say("dry run: nothing was changed")
        return False
    if yes:
        return True
    if output.as_json or not sys.stdin.isatty():
        raise UsageError("this changes the store, and nobody is there to be asked", hint="--yes, or --dry-run")
    typer.confirm("Go on?", abort=True, err=True)
    return True


def size_text(size: int) -> str:
    """Return a size for people."""
    value = float(size)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError
