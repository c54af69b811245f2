"""What a shell offers when somebody presses Tab: names, settings and generations. It never fails and says nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from conceptctl.methods import CLASSIFIERS, METHODS

if TYPE_CHECKING:
    from typer._click.shell_completion import CompletionItem

    from conceptctl.store.store import Store

Offered = list[tuple[str, str]]
"""Words, each with what it means."""
Offers = Callable[[typer.Context, str], Offered]


def quietly(offers: Callable[[typer.Context, str], Iterable[tuple[str, str]]]) -> Offers:
    """Offer nothing where something is wrong: a shell's line is no place for errors."""

    @functools.wraps(offers)
    def offer(ctx: typer.Context, incomplete: str) -> Offered:
        try:
            return [(word, text) for word, text in offers(ctx, incomplete) if word.startswith(incomplete)]
        except Exception:  # noqa: BLE001 - see above
            return []

    return offer


def items(words: Mapping[str, str], incomplete: str) -> list[CompletionItem]:
    """Words of a table that go on from what is typed, as typer wants them."""
    from typer._click.shell_completion import CompletionItem

    return [CompletionItem(word, help=text) for word, text in words.items() if word.startswith(incomplete)]


def one_of(*words: str) -> Offers:
    """Offer words that are always the same."""
    return quietly(lambda ctx, incomplete: [(word, "") for word in words])


def _store(ctx: typer.Context) -> Store:
    """The store that the line names so far, or the default one."""
    from conceptctl.store.layout import chosen_root
    from conceptctl.store.store import Store

    named = ctx.params.get("store")
    return Store(chosen_root(Path(named) if named else None))


@quietly
def concepts(ctx: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer the store's concepts that the line does not name yet."""
    named = {word for value in ctx.params.values() if isinstance(value, tuple | list) for word in value}
    return [(each.name, each.class_word) for each in _store(ctx).head().concepts if each.name not in named]


@quietly
def concepts_and_folders(ctx: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer `NAME=` for each of the store's concepts."""
    return [(f"{each.name}=", each.class_word) for each in _store(ctx).head().concepts]


@quietly
def lessons(ctx: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer what may be learned under its name: what was begun and not finished, or is to be replaced."""
    from conceptctl.store import jobs

    store = _store(ctx)
    there = {each.name for each in store.head().concepts}
    begun = {str(job.settings.get("name", "")) for job in jobs.found(store.layout)} - there
    replaced = sorted(there) if ctx.params.get("replace") else []
    return [*((name, "interrupted") for name in sorted(begun)), *((name, "there already") for name in replaced)]


@quietly
def classes(ctx: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer the classes of the store's concepts."""
    return [(word, "") for word in dict.fromkeys(each.class_word for each in _store(ctx).head().concepts) if word]


@quietly
def generations(ctx: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer the generations, newest first, with what made them."""
    return [(str(row.seq), f"{row.verb} {row.subject}".strip()) for row in reversed(_store(ctx).log())]


@quietly
def presets(ctx: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer the presets that this program brings; a shell goes on to files where none fits."""
    from conceptctl.presets import shipped

    return [(name, preset.description) for name, preset in shipped().items()]


@quietly
def method_settings(ctx: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer `NAME=` for each setting of the method that the line names, or the default one."""
    from conceptctl.cli.method_settings import settings_of
    from conceptctl.config import load_config
    from conceptctl.presets import Learn

    # Which base a store has is found out too slowly for this.
    method = ctx.params.get("method") or load_config().train.method or Learn().method
    return [(f"{name}=", text) for name, text in settings_of(method).items()]


@quietly
def config_keys(ctx: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer the settings of `config`."""
    from conceptctl.config import config_values, load_config

    return [(key, "" if value is None else str(value)) for key, value in config_values(load_config()).items()]


@quietly
def config_values(ctx: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Offer values for the setting that the line names, where there are few."""
    return [(method, "") for method in METHODS] if ctx.params.get("key") == "train.method" else []


methods = one_of(*METHODS, *(CLASSIFIERS.keys() - METHODS.keys()))
devices = one_of("auto", "cpu", "cuda")
