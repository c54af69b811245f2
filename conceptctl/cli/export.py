"""`conceptctl export`: concepts as files for elsewhere."""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from conceptctl.cli import completion
from conceptctl.cli.options import OUTPUT, JsonOption, QuietOption, StoreOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.progress import in_megabytes
from conceptctl.cli.stores import KEPT_WHOLE, listed, open_drawing, share_text, size_text, warn_of_damaged
from conceptctl.errors import UsageError
from conceptctl.store.store import Store
from conceptctl.wording import count

EPILOG = epilog(
    "conceptctl export alice --to concept --output alice.safetensors",
    "conceptctl export --to concept --output all/",
    "conceptctl export --to diffusers --output my-model",
    "conceptctl export alice falls --to lora --output both.safetensors",
    "conceptctl export --to single-file --output model.safetensors --dtype fp16",
    "conceptctl export alice --to diffusers --output only-alice --at 12",
    codes=(2, 4, 5, 7),
)
SHARED = ("single-file", "lora", "diff", "embedding")
FORMATS = ("concept", "diffusers", *SHARED)
NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Concepts; all when none is named.", metavar="[NAMES]...", autocompletion=completion.concepts),
]
ToOption = Annotated[
    str,
    typer.Option(
        "--to",
        help="concept: one file each that another store can import; "
        "diffusers: the base with the concepts folded in, as a folder that any diffusers program loads; "
        "single-file: the same as one checkpoint; lora: what was learned, for diffusers, ComfyUI, A1111, sd-scripts; "
        "diff: the same as full differences, for ComfyUI and A1111; embedding: the tokens alone.",
        metavar="FORMAT",
        autocompletion=completion.one_of(*FORMATS),
    ),
]
PathOption = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        help=(
            "A .safetensors file; of concepts and embeddings also a folder, for several or with a / at its end; "
            "of diffusers a folder. Concept files go here by default."
        ),
        metavar="PATH",
        rich_help_panel=OUTPUT,
    ),
]
BesideOption = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        help="A concept that the base has already where the file is used; repeatable. A folder gets it too.",
        metavar="NAME",
        autocompletion=completion.concepts,
    ),
]
RawOption = Annotated[
    bool,
    typer.Option(
        "--raw",
        help="The deltas as they were learned, on top of earlier concepts, instead of each made whole on the base.",
    ),
]
FolderAtOption = Annotated[
    int | None,
    typer.Option(
        "--at",
        help="As of this generation (see log); not with --to concept.",
        metavar="GENERATION",
        autocompletion=completion.generations,
    ),
]
RankOption = Annotated[
    int | None,
    typer.Option("--rank", help="With --to lora: leave out what is beyond this rank; exact by default.", metavar="N"),
]
TypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="Of the numbers in the file: fp16, bf16 or fp32 (the default; of a checkpoint the base's).",
        metavar="TYPE",
        autocompletion=completion.one_of("fp16", "bf16", "fp32"),
    ),
]


def export(
    names: NamesArgument = None,
    to: ToOption = "concept",
    output: PathOption = None,
    beside: BesideOption = None,
    raw: RawOption = False,
    at: FolderAtOption = None,
    rank: RankOption = None,
    dtype: TypeOption = None,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write concepts as files, or the model with them as a folder or a file. Nothing is overwritten.

    Each concept draws what it draws in the store, though it was learned on top of others that do not go along.
    """
    out = Output(json, quiet)
    chosen, others = tuple(names or ()), tuple(beside or ())
    _check(to, chosen, others, raw=raw, of_shared=rank is not None or dtype is not None)
    if to in SHARED:
        from conceptctl.cli.export_shared import write

        write(out, open_drawing(store, KEPT_WHOLE), chosen, output, to, at=at, rank=rank, dtype=dtype)
        return
    if to == "diffusers":
        if output is None:
            raise UsageError("--to diffusers makes a folder, which needs a name", hint="--output DIR")
        _folder(out, open_drawing(store, KEPT_WHOLE), (*chosen, *others), Path(output), at, raw)
        return
    if at is not None:
        raise UsageError("a concept file is of the newest generation", hint="leave out --at")
    _files(out, open_drawing(store, KEPT_WHOLE), chosen, output or ".", raw, others)


def _check(to: str, chosen: tuple[str, ...], others: tuple[str, ...], *, raw: bool, of_shared: bool) -> None:
    """Refuse what does not go together.

    Raises:
        UsageError: Something does not.
    """
    if to not in FORMATS:
        raise UsageError(f"there is no export format {to!r}", hint=f"formats: {', '.join(FORMATS)}")
    if of_shared and to not in SHARED:
        raise UsageError("--rank and --dtype are for other programs' files", hint=f"--to {', '.join(SHARED)}")
    if (raw or others) and to in SHARED:
        raise UsageError(f"--raw and --with do not go with --to {to}", hint="name all concepts that go along")
    if others and not chosen:
        raise UsageError(
            "--with needs the concept that it stands beside", hint=f"conceptctl export NAME {_with(others)}"
        )
    if raw and others:
        raise UsageError("a delta as it was learned stands on what was there then", hint="--raw, or --with NAME")
    if twice := sorted(set(chosen) & set(others)):
        raise UsageError(f"{twice[0]!r} cannot stand beside itself", hint="--with names other concepts")


def _with(names: tuple[str, ...]) -> str:
    return " ".join(f"--with {name}" for name in names)


def _files(out: Output, store: Store, names: tuple[str, ...], output: str, raw: bool, beside: tuple[str, ...]) -> None:
    from conceptctl.workflows.export import export_concepts

    with out.progress() as bar:
        written = export_concepts(
            store,
            names,
            Path(output),
            # A path forgets the slash that says so.
            into_folder=output.endswith(("/", os.sep)),
            raw=raw,
            beside=beside,
            progress=bar("reading prompts"),
        )
    paths = [str(each.path) for each in written]
    files = [
        {
            "name": each.name,
            "path": str(each.path),
            "bytes": each.size,
            "whole": each.stands_on == (),
            "stands_on": None if each.stands_on is None else list(each.stands_on),
            "changed": each.changed,
        }
        for each in written
    ]
    warn_of_damaged(out, dict.fromkeys(name for each in written for name in each.damaged))
    out.data({"files": files}, paths, paths)
    if raw and store.head().consolidated:
        out.warn("a forget or a compaction has changed the weights since: these deltas do not make this store again")
    for each in written:
        if each.changed is not None:
            base = f"the base with {listed(each.stands_on)}" if each.stands_on else "the base alone"
            out.say(f"{each.name}: whole on {base}; its prompts' keys and values within {share_text(each.changed)}")
        elif each.stands_on is None:
            out.say(f"{each.name}: as it was learned; history does not say on top of what")
        elif each.stands_on:
            out.say(f"{each.name}: as it was learned, on top of {listed(each.stands_on)}, and other without them")
    total = size_text(sum(each.size for each in written))
    out.say(
        f"exported {count(len(written), 'concept')}, {total}; another store on the same base takes "
        f"{'it' if len(written) == 1 else 'them'}: conceptctl import {shlex.quote(paths[0])} --store DIR"
    )


def _folder(out: Output, store: Store, names: tuple[str, ...], output: Path, at: int | None, raw: bool) -> None:
    from conceptctl.workflows.export import export_folder

    with out.progress() as bar:
        folder = export_folder(
            store,
            names,
            output,
            at=at,
            raw=raw,
            solving=bar("reading prompts"),
            writing=in_megabytes(bar("writing, MB")),
        )
    warn_of_damaged(out, folder.damaged)
    made = folder.checkpoint
    tokens = [f"V*{name}" for name in made.concepts]
    payload = {
        "generation": made.generation,
        "path": str(made.folder),
        "concepts": list(made.concepts),
        "tokens": tokens,
        "bytes": made.size,
        "changed": dict(folder.changed),
    }
    out.data(payload, [str(made.folder)], [str(made.folder)])
    out.say(f"exported {size_text(made.size)}; in prompts: {' '.join(tokens) or 'no concepts yet'}")
    for name, changed in folder.changed.items():
        out.say(f"{name}: whole without the others; its prompts' keys and values within {share_text(changed)}")
