"""`conceptctl export`: concepts as files for elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from conceptctl.cli.options import JsonOption, QuietOption, StoreOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import open_store
from conceptctl.errors import UsageError

EPILOG = epilog(
    "conceptctl export alice --to concept --output alice.safetensors",
    "conceptctl export --to concept --output backup/",
    codes=(2, 4, 5, 7),
)


def export(
    names: Annotated[list[str] | None, typer.Argument(help="Concepts; all when none is named.")] = None,
    to: Annotated[str, typer.Option("--to", help="concept: one file that another store can import.")] = "concept",
    output: Annotated[Path, typer.Option("--output", "-o", help="A file, or a folder for several.")] = Path(),
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write concepts as files. Nothing is overwritten."""
    from conceptctl.workflows.concept_files import export_concepts

    if to != "concept":
        raise UsageError(f"there is no export format {to!r}", hint="formats: concept")
    written = export_concepts(open_store(store), tuple(names or ()), output)
    paths = [str(each.path) for each in written]
    files = [{"name": each.name, "path": str(each.path), "bytes": each.size} for each in written]
    Output(json, quiet).data({"files": files}, paths, paths)
