"""What verbs on a store share: finding it, asking before something goes away, and saying sizes."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from conceptctl.cli.output import Output
from conceptctl.errors import UsageError
from conceptctl.store.layout import chosen_root
from conceptctl.store.store import Store

if TYPE_CHECKING:
    from conceptctl.workflows.consolidation import Held


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


def share_text(share: float) -> str:
    """Return a share for people, in per cent."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


SHOWN = 6


def kept_lines(kept: Iterable["Held"]) -> list[str]:
    """Say what becomes of concepts: those that change most, and how many more there are."""
    worst = sorted(kept, key=lambda each: -each.changed)
    lines = [f"    {each.name}: {share_text(each.changed)}" for each in worst[:SHOWN]]
    return lines + ([f"    {len(worst) - SHOWN} more: less"] if len(worst) > SHOWN else [])


def warn_of_damaged(output: Output, names: Iterable[str]) -> None:
    """Say of which concepts nothing was held, because their files are damaged."""
    for name in names:
        output.warn(f"{name}: its file is damaged, and what it draws, or others because of it, is not kept")


def size_text(size: int) -> str:
    """Return a size for people."""
    value = float(size)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError
