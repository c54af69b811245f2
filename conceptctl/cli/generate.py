"""`conceptctl generate`: draw pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptctl.cli import completion
from conceptctl.cli.options import (
    MEMORY,
    OUTPUT,
    AtOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    StoreOption,
    epilog,
)
from conceptctl.cli.output import Output
from conceptctl.cli.stores import open_drawing
from conceptctl.config import load_config
from conceptctl.diffusion.samplers import SAMPLERS, check_sampler
from conceptctl.errors import UsageError
from conceptctl.wording import count

if TYPE_CHECKING:
    from conceptctl.store.store import Store
    from conceptctl.workflows.generate.request import Request
    from conceptctl.workflows.generate.run import Generated

EPILOG = epilog(
    'conceptctl generate "a photo of V*alice next to V*falls" -n 4',
    'conceptctl generate "a photo of a cat in the snow" --seed 7 -o pictures',
    'conceptctl generate "a photo of V*alice:0.8 on a beach" --sampler euler-a',
    "conceptctl generate --prompt-file prompts.txt -n 2 -o pictures",
    codes=(2, 4, 5, 7, 9),
)
FEW = 6
"""How many concepts are named to somebody who named none."""
DEFAULT_FOLDER = "conceptctl-out"
PromptArgument = Annotated[
    str | None,
    typer.Argument(
        help="What to draw; V*NAME is a concept, V*NAME:0.8 the same less strongly (0 to 2, usually 1).",
        metavar="[PROMPT]",
    ),
]
PromptOnlyOption = Annotated[
    bool,
    typer.Option(
        "--prompt-only",
        help="Draw from the prompt alone, as other programs do: concepts may be lost, or what is said beside them.",
    ),
]
PromptFileOption = Annotated[
    str | None,
    typer.Option(
        help="Draw every line of this file; - is standard input. What is in the folder already is not drawn again.",
        metavar="FILE",
    ),
]
SizeOption = Annotated[
    str | None,
    typer.Option(
        help="Width and height in pixels, multiples of 8 (some bases: 16), as 768x512; the base's own by default.",
        metavar="WxH",
    ),
]
GuidanceOption = Annotated[
    float | None, typer.Option("--guidance", "--guidance-scale", help="How closely to follow the prompt.")
]
SamplerOption = Annotated[
    str | None,
    typer.Option(
        help=f"{', '.join(SAMPLERS)}; the base's own by default.",
        metavar="NAME",
        autocompletion=completion.one_of(*SAMPLERS),
    ),
]
BatchOption = Annotated[
    int,
    typer.Option(
        "--batch-size",
        help="Draw so many pictures together: faster on a GPU; the same pictures, but for rounding.",
        metavar="N",
        rich_help_panel=MEMORY,
    ),
]
LowVramOption = Annotated[
    bool,
    typer.Option("--low-vram", help="Keep off the GPU what is not at work; slower.", rich_help_panel=MEMORY),
]


def generate(
    prompt: PromptArgument = None,
    number: Annotated[int, typer.Option("-n", "--num-images-per-prompt", help="How many pictures.")] = 1,
    output: Annotated[
        str, typer.Option("-o", "--output", help="Folder for the pictures.", metavar="PATH")
    ] = DEFAULT_FOLDER,
    seed: Annotated[int | None, typer.Option(help="Seed of the first picture; picture i has seed + i.")] = None,
    size: SizeOption = None,
    steps: Annotated[int | None, typer.Option("--steps", "--num-inference-steps", help="Denoising steps.")] = None,
    guidance: GuidanceOption = None,
    sampler: SamplerOption = None,
    negative: Annotated[str | None, typer.Option("--negative", "--negative-prompt", help="What not to draw.")] = None,
    prompt_file: PromptFileOption = None,
    grid: Annotated[
        str | None,
        typer.Option(
            help="File for the contact sheet; in the folder by default.", metavar="FILE", rich_help_panel=OUTPUT
        ),
    ] = None,
    prompt_only: PromptOnlyOption = False,
    at: AtOption = None,
    batch_size: BatchOption = 1,
    low_vram: LowVramOption = False,
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
    _check(prompt, prompt_file, output, grid)
    defaults = load_config().sample
    from conceptctl.workflows.generate.request import Request, parse_size

    request = Request(
        prompt=prompt or "",
        count=number,
        seed=defaults.seed if seed is None else seed,
        steps=defaults.steps if steps is None else steps,
        guidance=defaults.guidance if guidance is None else guidance,
        negative=defaults.negative if negative is None else negative,
        prompt_only=prompt_only,
        at=at,
        metadata=not no_metadata,
        size=None if size is None else parse_size(size),
        sampler="" if sampler is None else check_sampler(sampler),
        batch_size=batch_size,
        low_vram=low_vram,
    )
    _draw(out, open_drawing(store), request, prompt_file, Path(output), Path(grid) if grid else None, device)


def _check(prompt: str | None, prompt_file: str | None, output: str, grid: str | None) -> None:
    """Refuse command lines that say nothing, or two things at once."""
    if prompt is None and prompt_file is None:
        raise UsageError("what to draw is missing", hint='conceptctl generate "a photo of V*NAME", or --prompt-file')
    if prompt is not None and prompt_file is not None:
        raise UsageError("a prompt and --prompt-file at once", hint="put the prompt into the file")
    if grid is not None and prompt_file is not None:
        raise UsageError("there is no contact sheet of many prompts", hint="leave out --grid")
    for option, value, instead in (
        ("--output", output, "-o . is this folder"),
        ("--grid", grid, "--grid sheet.png"),
        ("--prompt-file", prompt_file, "--prompt-file prompts.txt"),
    ):
        if value == "":
            raise UsageError(f"{option} is empty", hint=instead)


def _draw(
    out: Output, store: Store, request: Request, prompt_file: str | None, folder: Path, grid: Path | None, device: str
) -> None:
    """Draw, and say what was written, also where something comes between."""
    from conceptctl.workflows.generate import run
    from conceptctl.workflows.generate.prompt_file import read_prompts

    written: list[Path] = []
    how: Any = {"device": device, "written": written.append, "warn": out.warn}
    try:
        lines = None if prompt_file is None else read_prompts(prompt_file)
        with out.progress() as stages:
            if lines is None:
                made = run.generate(store, request, folder, grid=grid, progress=stages, **how)
            else:
                made = run.generate_all(store, request, lines, folder, progress=stages, **how)
        _show(out, made)
    except (Exception, KeyboardInterrupt) as error:
        if written and not isinstance(error, BrokenPipeError):
            out.say(f"drawn before that, and kept: {' '.join(map(str, written))}", always=True)
        raise


def _show(out: Output, made: Generated) -> None:
    sheet = made.contact_sheet
    payload = {
        "generation": made.generation,
        "images": [
            {"path": str(image.path), "seed": image.seed, "prompt": image.prompt, "new": image.new}
            for image in made.images
        ],
        "contact_sheet": None if sheet is None else str(sheet),
        "regions": list(made.regions),
    }
    if made.regions:
        shown = ", ".join(f"{prompt!r}" for prompt in made.regions)
        out.say(f"side by side, from the left: {shown}; --prompt-only draws from the prompt alone")
    paths = [str(image.path) for image in made.images]
    out.data(payload, [*paths, *([] if sheet is None else [str(sheet)])], paths)
    drawn = sum(image.new for image in made.images)
    there = f"; {len(paths) - drawn} were there already" if drawn < len(paths) else ""
    out.say(f"drew {count(drawn, 'picture')}{there}" + ("" if sheet is None else f"; side by side: {sheet}"))
    if not made.known:
        out.say("the store has no concepts yet; next: conceptctl learn DIR --token NAME --class WORD")
    elif not made.named:
        few = ", ".join(f"V*{name}" for name in made.known[:FEW])
        out.say(f"the prompt names no concept; there {'is' if len(made.known) == 1 else 'are'} {few}{_more(made)}")


def _more(made: Generated) -> str:
    return f" and {len(made.known) - FEW} more (conceptctl list)" if len(made.known) > FEW else ""
