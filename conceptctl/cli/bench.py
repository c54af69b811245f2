"""`conceptctl bench`: what comparisons of methods are made of."""

from pathlib import Path
from typing import Annotated

import typer

from conceptctl.cli.help import Command
from conceptctl.cli.options import JsonOption, QuietOption, epilog
from conceptctl.cli.output import Output
from conceptctl.wording import count

EPILOG = epilog(
    "conceptctl bench data ./concepts",
    "conceptctl bench data ./fifty --concepts 50 --seed 1",
    codes=(2, 5, 7),
)
app = typer.Typer(help="Data for comparing methods.", no_args_is_help=True, epilog=EPILOG, rich_markup_mode=None)


@app.command("data", cls=Command, epilog=EPILOG)
def data(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.", metavar="DIR")],
    concepts: Annotated[int, typer.Option(help="How many concepts; figures are published for 10, 20, 50, 500.")] = 10,
    seed: Annotated[int, typer.Option(help="Which sequence; different seeds share no concept.")] = 0,
    train: Annotated[int, typer.Option(help="Training pictures of each concept.")] = 12,
    heldout: Annotated[int, typer.Option(help="Held-out pictures of each concept.")] = 40,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write concepts of the pocket world as picture folders: DIR/NAME/train, DIR/NAME/heldout, DIR/concepts.json."""
    from conceptctl.workflows.bench.data import write_bench_data

    output = Output(json, quiet)
    with output.progress() as shown:
        names: list[str] = []
        draw = shown("drawing")

        def drawn(name: str) -> None:
            names.append(name)
            draw(len(names), concepts)

        written = write_bench_data(
            folder,
            length=concepts,
            seed=seed,
            training=train,
            heldout=heldout,
            progress=drawn,
        )
    paths = [str(folder / name) for name in written.names]
    payload = {"folder": str(folder), "concepts": list(written.names), "train": train, "heldout": heldout}
    output.data(payload, paths, paths)
    output.say(f"{count(len(paths), 'concept')}, each with {train} training and {count(heldout, 'held-out picture')}")
