"""What verbs on a store share: finding it, asking before something goes away, and saying sizes."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from conceptctl.cli.output import Output
from conceptctl.errors import UsageError
from conceptctl.store.layout import chosen_root
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store
from conceptctl.wording import count

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


SHOWN = 6
"""How many names a line or a list has before it says how many more there are."""
NEXT = "no concepts yet; next: conceptctl learn DIR --token NAME --class WORD"
"""What an empty store says."""


def left_text(head: Generation) -> str:
    """Say how many concepts a generation has."""
    return f"{count(len(head.concepts), 'concept')} left" if head.concepts else "no concepts left"


def there_text(head: Generation) -> str:
    """Say how many concepts a generation has, where none has gone."""
    return f"{count(len(head.concepts), 'concept')} in the store"


def listed(words: Sequence[str]) -> str:
    """Return words as a sentence has them: "a, b and c"; the first ones of many."""
    more = len(words) - SHOWN
    if more > 0:
        return f"{', '.join(words[:SHOWN])} and {more} more"
    return " and ".join([*([", ".join(words[:-1])] if words[1:] else []), *words[-1:]])


def action_text(verb: str, names: Sequence[str]) -> str:
    """Say what made a generation: "fold alice and bob", "rename alice to ally"."""
    return f"{verb} {' to '.join(names) if verb == 'rename' else listed(names)}".strip()


def minute(time: str) -> str:
    """Return a time for people, to the minute; UTC, as it is kept."""
    return time[:16].replace("T", " ")


def settle(store: Store, verb: str, *, wait: bool, dry_run: bool) -> None:
    """Where somebody is to be waited for, do it before planning: the plan is then for what they leave."""
    if wait and not dry_run:
        with store.writing(verb, wait=True):
            pass


def share_text(share: float) -> str:
    """Return a share for people, in per cent."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


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
