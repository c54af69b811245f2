"""What verbs on a store share: finding it, asking before something goes away, and saying sizes."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from conceptctl.cli.output import Output
from conceptctl.errors import UsageError
from conceptctl.families import check_draws
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


def open_drawing(option: Path | None, instead: str = "conceptctl classify PICTURE") -> Store:
    """Open the store that a user means, if it draws.

    Args:
        option: As in `open_store`.
        instead: What does what was asked for where classes are told apart.

    Raises:
        NotFound: There is none there.
        UsageError: It draws nothing.
    """
    opened = open_store(option)
    check_draws(opened.head().base, instead)
    return opened


def classifier_at(option: Path | None) -> Store | None:
    """Open the store that a user means, if it is there and tells classes apart."""
    if not chosen_root(option).exists():
        return None
    opened = open_store(option)
    return opened if opened.head().base.is_classifier else None


def next_text(head: Generation) -> str:
    """What an empty store says."""
    return NEXT_CLASSES if head.base.is_classifier else NEXT


def outcome_of(head: Generation) -> str:
    """What a store's model makes."""
    return "answers" if head.base.is_classifier else "pictures"


def check_meaningful(context: typer.Context, meaningful: Iterable[str], instead: str) -> None:
    """Refuse options that mean nothing in a store that tells classes apart.

    Args:
        context: Of the verb.
        meaningful: The parameters that mean something there.
        instead: A command that does.

    Raises:
        UsageError: Another one was given.
    """
    known = set(meaningful)
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is not None and source.name == "COMMANDLINE" and parameter.name not in known:
            raise UsageError(
                f"{parameter.opts[0]} is of concepts that are drawn, and this store tells classes apart",
                hint=instead,
            )


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
KEPT_WHOLE = "a copy of the store's folder is a copy of all that it has learned"
"""What to do where nothing can be exported."""
NEXT_CLASSES = "no classes yet; next: conceptctl learn DIR, with one folder for each class in it"


def left_text(head: Generation) -> str:
    """Say how many concepts a generation has."""
    noun = head.base.noun
    return f"{count(len(head.concepts), noun)} left" if head.concepts else f"no {noun}s left"


def there_text(head: Generation) -> str:
    """Say how many concepts a generation has, where none has gone."""
    return f"{count(len(head.concepts), head.base.noun)} in the store"


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
