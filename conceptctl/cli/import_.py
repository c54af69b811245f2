"""`conceptctl import`: a concept from another store on the same base, or from another program."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptctl.cli import completion
from conceptctl.cli.options import JsonOption, QuietOption, StoreOption, WaitOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import SHOWN, kept_lines, listed, open_drawing, share_text, there_text, warn_of_damaged
from conceptctl.store.concept import UID
from conceptctl.wording import count

if TYPE_CHECKING:
    from conceptctl.workflows.import_concept import Imported
    from conceptctl.workflows.import_foreign import Foreign

EPILOG = epilog(
    "conceptctl import alice.safetensors --as alice2",
    'conceptctl import lora.safetensors --as rex --class dog --trigger "sks dog"',
    "conceptctl import lora.safetensors --as rex --embedding rex-token.safetensors",
    codes=(2, 4, 5, 6, 7, 8),
)
_ELSEWHERE = "Files of other programs"
_CHANGES_LITTLE = 0.5
"""The share of what a LoRA changes below which it is said that most of it is not used."""


FileArgument = Annotated[
    Path, typer.Argument(help="A file that `export --to concept` wrote; a LoRA on keys and values; an embedding.")
]
RenameOption = Annotated[
    str | None, typer.Option("--as", "--token", help="Another name for it here: V*NAME.", metavar="NAME")
]
RawOption = Annotated[
    bool, typer.Option("--raw", help="Add the delta as it is in the file, whatever that does to those that are here.")
]
ClassOption = Annotated[
    str,
    typer.Option(
        "--class",
        help="What kind of thing it is: person, dog, waterfall.",
        metavar="WORD",
        rich_help_panel=_ELSEWHERE,
        autocompletion=completion.classes,
    ),
]
TriggerOption = Annotated[
    str,
    typer.Option(
        "--trigger",
        help="The words that a LoRA answers to; by default those that it names itself.",
        metavar="TEXT",
        rich_help_panel=_ELSEWHERE,
    ),
]
EmbeddingOption = Annotated[
    Path | None,
    typer.Option("--embedding", help="The file of a LoRA's token.", metavar="FILE", rich_help_panel=_ELSEWHERE),
]
LicenseOption = Annotated[
    str,
    typer.Option(
        "--license",
        help="Under what terms it may be used; kept with the concept.",
        metavar="TEXT",
        rich_help_panel=_ELSEWHERE,
    ),
]
ConsentOption = Annotated[
    str,
    typer.Option(
        "--consent", help="Who agreed to what; kept with the concept.", metavar="TEXT", rich_help_panel=_ELSEWHERE
    ),
]


def import_file(
    file: FileArgument,
    rename: RenameOption = None,
    raw: RawOption = False,
    class_word: ClassOption = "",
    trigger: TriggerOption = "",
    embedding: EmbeddingOption = None,
    license: LicenseOption = "",  # noqa: A002 - the option's name
    consent: ConsentOption = "",
    wait: WaitOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Add a concept from a file, once the file has passed every check. Those that are here keep what they draw.

    It is not folded yet.
    """
    from conceptctl.workflows.import_concept import import_concept
    from conceptctl.workflows.import_foreign import Elsewhere

    out = Output(json, quiet)
    elsewhere = Elsewhere(class_word, trigger, embedding, license, consent)
    drawing = open_drawing(store, "conceptctl learn DIR, with one folder for each class in it")
    with out.progress() as bar:
        found = import_concept(
            drawing,
            file,
            rename,
            elsewhere,
            raw=raw,
            wait=wait,
            progress=bar("reading prompts"),
        )
    _show(out, found)


def _show(out: Output, found: "Imported") -> None:
    head = found.generation
    name = head.concepts[-1].name
    if found.bare:
        out.warn(
            f"{_learned_on(name, found)}: it may draw something else; export it without --raw where it was learned"
        )
    if found.foreign:
        _warn_of_foreign(out, found.foreign)
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
            "foreign": found.foreign and dataclasses.asdict(found.foreign),
        },
        [f"generation {head.seq}: {name}, in prompts V*{name}"],
        [name],
    )
    if found.lacking is not None and found.kept:
        out.say(f"its prompts' keys and values are within {share_text(found.lacking)} of what they were; those of")
        for line in kept_lines(found.kept):
            out.say(line)
    if found.foreign:
        _say_of_foreign(out, name, found.foreign)
    out.say(f"imported V*{name}; {there_text(head)}; conceptctl undo takes it out again")


def _warn_of_foreign(out: Output, foreign: "Foreign") -> None:
    """Say what in a file of another program could not be used, where that matters."""
    if foreign.other_base:
        out.warn("the file says that it was made for another base: it may draw something else here")
    if foreign.share is not None and foreign.share < _CHANGES_LITTLE:
        out.warn(
            f"{share_text(foreign.share)} of what the file changes is used, by squares: a concept changes the keys and "
            "values of cross-attention alone, so it will draw less of it than where it comes from"
        )


def _say_of_foreign(out: Output, name: str, foreign: "Foreign") -> None:
    if foreign.used:
        out.say(f"of the LoRA: {count(foreign.used, 'module')}, {share_text(foreign.share or 0)} of what it changes")
    if foreign.unused:
        out.say("not used: " + ", ".join(f"{number} of {kind}" for kind, number in foreign.unused.items()))
    if foreign.trigger:
        out.say(f"V*{name} begins at its trigger words; it answers to them as before: {foreign.trigger}")
    elif foreign.form == "lora":
        out.say(f"it has no token: V*{name} stands for its class; say its own trigger words beside it")


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
