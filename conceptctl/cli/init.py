"""`conceptctl init`: make a store."""

import shlex
from typing import Annotated

import typer

from conceptctl.cli import completion
from conceptctl.cli.options import JsonOption, QuietOption, StoreOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.progress import in_megabytes
from conceptctl.progress import Progress
from conceptctl.store.layout import chosen_root

EPILOG = epilog(
    "conceptctl init",
    "conceptctl init --base pocket-vit --store ./animals.store",
    "conceptctl init --base stable-diffusion-v1-5/stable-diffusion-v1-5 --store ~/photos.store",
    codes=(4, 5, 7, 8),
)
_MUCH = 500_000_000
"""Bytes of a base that takes some seconds to read."""


def init(
    base: Annotated[
        str,
        typer.Option(
            "--base",
            help="pocket, a hub id, a diffusers folder or a .safetensors checkpoint; to tell classes apart: "
            "pocket-vit, or a folder or hub id of a vision transformer.",
            metavar="BASE",
            autocompletion=completion.one_of("pocket", "pocket-vit"),
        ),
    ] = "pocket",
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a new store on a base. A store has one base; for another base make another store.

    On a model that draws, concepts are learned and drawn; on a vision transformer, classes are learned and told apart.
    """
    from conceptctl.workflows.init import initialize

    output = Output(json, quiet)
    with output.progress() as bar:
        made = initialize(chosen_root(store), base, lambda text: _of_much(in_megabytes(bar(f"{text}, MB"))))
    root = str(made.store.layout.root)
    output.data(
        {"store": root, "base": {"name": made.base_name, "sha256": made.base_sha256}, "generation": 0},
        [f"made a store at {root} on {made.base_name} ({made.base_sha256[:12]})"],
        [root],
    )
    named = "" if store is None else f" --store {shlex.quote(str(store))}"
    if made.is_classifier:
        output.say(f"next: conceptctl learn DIR{named}, with one folder for each class in DIR")
    else:
        output.say(f"next: conceptctl learn DIR --token NAME --class WORD{named}")


def _of_much(progress: Progress) -> Progress:
    """Return what is told of a base of so much, and of no smaller one."""

    def told(done: int, total: int) -> None:
        if total >= _MUCH:
            progress(done, total)

    return told
