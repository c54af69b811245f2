"""`conceptctl generate`: draw pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptctl.cli.options import (
    OUTPUT,
    AtOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    StoreOption,
    epilog,
)
from conceptctl.cli.output import Output
from conceptctl.cli.stores import open_store
from conceptctl.config import load_config
from conceptctl.wording import count

if TYPE_CHECKING:
    from conceptctl.store.store import Store
    from conceptctl.workflows.generate.run import Generated, Request

EPILOG = epilog(
    'conceptctl generate "a photo of V*alice next to V*falls" -n 4',
    'conceptctl generate "a photo of a cat in the snow" --seed 7 -o pictures',
    codes=(2, 4, 5, 7, 9),
)
FEW = 6
"""How many concepts are named to somebody who named none."""
DEFAULT_FOLDER = Path("conceptctl-out")
PromptOnlyOption = Annotated[
    bool,
    typer.Option(
        "--prompt-only",
        help="Draw from the prompt alone, as other programs do: concepts may be lost, or what is said beside them.",
    ),
]


def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw; V*NAME is a concept.", metavar="PROMPT")],
    number: Annotated[int, typer.Option("-n", "--num-images-per-prompt", help="How many pictures.")] = 1,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the pictures.")] = DEFAULT_FOLDER,
    seed: Annotated[int | None, typer.Option(help="Seed of the first picture; picture i has seed + i.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", "--num-inference-steps", help="Denoising steps.")] = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", "--guidance-scale", help="How closely to follow the prompt.")
    ] = None,
    negative: Annotated[str | None, typer.Option("--negative", "--negative-prompt", help="What not to draw.")] = None,
    grid: Annotated[
        Path | None,
        typer.Option(
            help="File for the contact sheet; in the folder by default.", metavar="FILE", rich_help_panel=OUTPUT
        ),
    ] = None,
    prompt_only: PromptOnlyOption = False,
    at: AtOption = None,
    device: DeviceOption = "auto",
    no_metadata: Annotated[
        bool,
        typer.Option("--no-metadata", help="Leave out of the files how they were made.", rich_help_panel=OUTPUT),
    ] = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw pictures. Each is written as PNG with its recipe inside; nothing is overwritten."""
    out = Output(json, quiet)
    defaults = load_config().sample
    from conceptctl.workflows.generate.run import Request

    request = Request(
        prompt=prompt,
        count=number,
        seed=defaults.seed if seed is None else seed,
        steps=defaults.steps if steps is None else steps,
        guidance=defaults.guidance if guidance is None else guidance,
        negative=defaults.negative if negative is None else negative,
        prompt_only=prompt_only,
        at=at,
        metadata=not no_metadata,
    )
    _draw(out, open_store(store), request, output, grid, device)


def _draw(out: Output, store: Store, request: Request, folder: Path, grid: Path | None, device: str) -> None:
    """Draw, and say what was written, also where something comes between."""
    from conceptctl.workflows.generate.run import generate as draw

    written: list[Path] = []
    try:
        with out.progress() as stages:
            made = draw(
                store, request, folder, grid=grid, device=device, progress=stages, written=written.append, warn=out.warn
            )
        _show(out, made)
    except (Exception, KeyboardInterrupt) as error:
        if written and not isinstance(error, BrokenPipeError):
            out.say(f"drawn before that, and kept: {' '.join(map(str, written))}", always=True)
        raise


def _show(out: Output, made: Generated) -> None:
    payload = {
        "generation": made.generation,
        "images": [{"path": str(image.path), "seed": image.seed} for image in made.images],
        "contact_sheet": str(made.contact_sheet),
        "regions": list(made.regions),
    }
    if made.regions:
        shown = ", ".join(f"{prompt!r}" for prompt in made.regions)
        out.say(f"side by side, from the left: {shown}; --prompt-only draws from the prompt alone")
    paths = [str(image.path) for image in made.images]
    out.data(payload, [*paths, str(made.contact_sheet)], paths)
    out.say(f"drew {count(len(paths), 'picture')}; side by side: {made.contact_sheet}")
    if not made.known:
        out.say("the store has no concepts yet; next: conceptctl learn DIR --token NAME --class WORD")
    elif not made.named:
        few = ", ".join(f"V*{name}" for name in made.known[:FEW])
        out.say(f"the prompt names no concept; there {'is' if len(made.known) == 1 else 'are'} {few}{_more(made)}")


def _more(made: Generated) -> str:
    return f" and {len(made.known) - FEW} more (conceptctl list)" if len(made.known) > FEW else ""
