"""`conceptctl export`: concepts as files for elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from conceptctl.cli.options import JsonOption, QuietOption, StoreOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import open_store, size_text
from conceptctl.errors import UsageError
from conceptctl.store.store import Store

EPILOG = epilog(
    "conceptctl export alice --to concept --output alice.safetensors",
    "conceptctl export --to concept --output backup/",
    "conceptctl export --to diffusers --output my-model",
    "conceptctl export alice --to diffusers --output only-alice --at 12",
    codes=(2, 4, 5, 7),
)
FORMATS = ("concept", "diffusers")


def export(
    names: Annotated[list[str] | None, typer.Argument(help="Concepts; all when none is named.")] = None,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="concept: one file each that another store can import; "
            "diffusers: the base with the concepts folded in, as a folder that any diffusers program loads.",
        ),
    ] = "concept",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file, or a folder for several; here by default.")
    ] = None,
    at: Annotated[
        int | None, typer.Option(help="With --to diffusers: as of this generation (see log).", metavar="GENERATION")
    ] = None,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write concepts as files, or the model with its concepts as a folder. Nothing is overwritten."""
    out = Output(json, quiet)
    if to not in FORMATS:
        raise UsageError(f"there is no export format {to!r}", hint=f"formats: {', '.join(FORMATS)}")
    chosen = tuple(names or ())
    if to == "diffusers":
        if output is None:
            raise UsageError("--to diffusers makes a folder, which needs a name", hint="--output DIR")
        _folder(out, open_store(store), chosen, output, at)
        return
    if at is not None:
        raise UsageError("a concept file is the same in every generation that has the concept", hint="leave out --at")
    from conceptctl.workflows.concept_files import export_concepts

    written = export_concepts(open_store(store), chosen, output or Path())
    paths = [str(each.path) for each in written]
    files = [{"name": each.name, "path": str(each.path), "bytes": each.size} for each in written]
    out.data({"files": files}, paths, paths)


def _folder(out: Output, store: Store, names: tuple[str, ...], output: Path, at: int | None) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from conceptctl.formats.diffusers_folder import export_diffusers

    with Progress(console=Console(stderr=True), transient=True, disable=out.as_json or out.quiet) as bar:
        task = bar.add_task("writing", total=None)
        made = export_diffusers(
            store,
            names,
            output,
            at=at,
            progress=lambda written, total: bar.update(task, completed=written, total=total),
        )
    tokens = [f"V*{name}" for name in made.concepts]
    payload = {
        "generation": made.generation,
        "path": str(made.folder),
        "concepts": list(made.concepts),
        "tokens": tokens,
        "bytes": made.size,
    }
    out.data(payload, [str(made.folder)], [str(made.folder)])
    out.say(f"{size_text(made.size)}; in prompts: {' '.join(tokens) or 'no concepts yet'}")
