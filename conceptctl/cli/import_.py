"""`conceptctl import`: a concept from another store on the same base."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptctl.cli.options import JsonOption, QuietOption, StoreOption, WaitOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import SHOWN, kept_lines, listed, open_store, share_text, there_text, warn_of_damaged
from conceptctl.store.concept import UID
from conceptctl.wording import count

if TYPE_CHECKING:
    from conceptctl.workflows.import_concept import Imported

EPILOG = epilog("conceptctl import alice.safetensors --as alice2", codes=(2, 4, 5, 6, 7, 8))


def import_file(
    file: Annotated[Path, typer.Argument(help="A file that `export --to concept` wrote.")],
    rename: Annotated[str | None, typer.Option("--as", help="Another name for it here.", metavar="NAME")] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Add the delta as it is in the file, whatever that does to those that are here."),
    ] = False,
    wait: WaitOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Add a concept from a file, once the file has passed every check. Those that are here keep what they draw.

    It is not folded yet.
    """
    from conceptctl.workflows.import_concept import import_concept

    out = Output(json, quiet)
    with out.progress() as bar:
        found = import_concept(open_store(store), file, rename, raw=raw, wait=wait, progress=bar("reading prompts"))
    head = found.generation
    name = head.concepts[-1].name
    if found.bare:
        out.warn(
            f"{_learned_on(name, found)}: it may draw something else; export it without --raw where it was learned"
        )
    warn_of_damaged(out, found.damaged)
    out.data(
        {
            "generation": head.seq,
            "name": name,
            "token": f"V*{name}",
            "stands_on": None if found.stands_on is None else list(found.stands_on),
            "missing": list(found.missing),
            "damaged": list(found.damaged),
            "bare": found.bare,
            "kept": {each.name: each.changed for each in found.kept},
            "lacking": found.lacking,
        },
        [f"generation {head.seq}: {name}, in prompts V*{name}"],
        [name],
    )
    if found.lacking is not None and found.kept:
        out.say(f"its prompts' keys and values are within {share_text(found.lacking)} of what they were; those of")
        for line in kept_lines(found.kept):
            out.say(line)
    out.say(f"imported V*{name}; {there_text(head)}; conceptctl undo takes it out again")


def _learned_on(name: str, found: "Imported") -> str:
    """Say what the delta of a bare file was learned on top of."""
    if found.stands_on is None:
        return f"the file does not say whether {name} was learned on top of others"
    on, missing = (_few(names) for names in (found.stands_on, found.missing))
    if found.missing == found.stands_on:
        return f"{name} was learned on top of {on}, not here"
    return f"{name} was learned on top of {on}, and this store is {f'without {missing}' if missing else 'another'}"


def _few(names: Sequence[str]) -> str:
    """The first of some names; concepts that this store never knew have none here."""
    known = [name for name in names if not UID.fullmatch(name)]
    strangers = len(names) - len(known)
    if not strangers:
        return listed(known)
    others = count(strangers, "other concept" if known else "concept")
    return listed([*known[: SHOWN - 1], f"{others} that this store never knew"])
