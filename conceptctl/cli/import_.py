"""`conceptctl import`: a concept from another store on the same base."""

from pathlib import Path
from typing import Annotated

import typer

from conceptctl.cli.options import JsonOption, QuietOption, StoreOption, WaitOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import open_store

EPILOG = epilog("conceptctl import alice.safetensors --as alice2", codes=(2, 4, 5, 6, 7, 8))


def import_file(
    file: Annotated[Path, typer.Argument(help="A file that `export --to concept` wrote.")],
    rename: Annotated[str | None, typer.Option("--as", help="Another name for it here.", metavar="NAME")] = None,
    wait: WaitOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Add a concept from a file, once the file has passed every check. It is not folded yet."""
    from conceptctl.workflows.concept_files import import_concept

    head = import_concept(open_store(store), file, rename, wait=wait)
    name = head.concepts[-1].name
    Output(json, quiet).data(
        {"generation": head.seq, "name": name, "token": f"V*{name}"},
        [f"generation {head.seq}: {name}, in prompts V*{name}"],
        [name],
    )
