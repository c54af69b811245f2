"""`generate`: pictures of what a store's model knows."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conceptctl.errors import UsageError
from conceptctl.images.contact_sheet import contact_sheet
from conceptctl.images.png import png_info
from conceptctl.images.writing import save_new
from conceptctl.progress import Stages, ignore_all
from conceptctl.store.store import Store
from conceptctl.workflows.drawing import in_batches
from conceptctl.workflows.generate.prepared import (
    MORE_MEMORY,
    Asked,
    Model,
    Watch,
    at_place,
    prepare,
    warn_of_length,
)
from conceptctl.workflows.generate.prompt_file import Line, drawn_already
from conceptctl.workflows.generate.request import Request, check
from conceptctl.workflows.places import check_name, writable

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Drawn:
    """One picture that is there."""

    path: Path
    seed: int
    prompt: str = ""
    new: bool = True
    """Whether it was drawn now, and was not there already."""


@dataclass(frozen=True)
class Generated:
    """What a run of `generate` wrote."""

    generation: int
    images: tuple[Drawn, ...]
    contact_sheet: Path | None
    """None where the prompts came from a file."""
    regions: tuple[str, ...] = ()
    """The prompt of each region, from left to right, where the one prompt names several concepts."""
    named: tuple[str, ...] = ()
    """The concepts that the prompts name."""
    known: tuple[str, ...] = ()
    """All concepts of the generation."""


def generate(
    store: Store,
    request: Request,
    folder: Path,
    *,
    grid: Path | None = None,
    device: str = "auto",
    progress: Stages = ignore_all,
    written: Callable[[Path], None] = lambda path: None,
    warn: Callable[[str], None] = lambda text: None,
) -> Generated:
    """Draw pictures and write them as PNG files, with a contact sheet; nothing is overwritten.

    Args:
        store: The store; it is only read, so that this works while something is learned.
        request: What to draw.
        folder: Where to; it is made when it is missing.
        grid: Where to write the contact sheet; `contact-sheet.png` in the folder by default.
        device: "auto", "cpu" or "cuda".
        progress: Told that the model is loaded, and how many of all pictures' denoising steps are done.
        written: Called with the path of each file once it is written: it stays, whatever comes after.
        warn: Called with what a user should know.

    Raises:
        NotFound: The prompt names a concept, or the request a generation, that is not there.
        StoreDamaged: Something that the pictures need is damaged.
        UsageError: A text, a number or a place that cannot be meant.
        DeviceFailed: Memory ran out.
    """
    check(request)
    _check_places(folder, grid)
    sheet = grid or folder / "contact-sheet.png"
    check_name(sheet)
    watch = Watch(progress, written, warn)
    with writable(folder), writable(sheet.parent):
        model, (asked,) = prepare(store, request, [Line(request.prompt, "")], device, watch)
        pictures: list[Image.Image] = []
        images, regions = _draw(model, asked, folder, watch, pictures)
        sheet.parent.mkdir(parents=True, exist_ok=True)
        seeds = [f"seed {image.seed}" for image in images]
        sheet = save_new(contact_sheet(pictures, request.prompt, seeds), sheet, noted=request.metadata)
        watch.written(sheet)
    return Generated(model.generation.seq, tuple(images), sheet, regions, asked.named, model.known)


def generate_all(
    store: Store,
    request: Request,
    lines: Sequence[Line],
    folder: Path,
    *,
    device: str = "auto",
    progress: Stages = ignore_all,
    written: Callable[[Path], None] = lambda path: None,
    warn: Callable[[str], None] = lambda text: None,
) -> Generated:
    """Draw the pictures of many prompts with a model that is loaded once; see `generate`.

    All prompts are judged before anything is loaded. Pictures that are in the folder already, by the recipes in their
    files, are not drawn again: after an interruption the same call goes on. There is no contact sheet.

    Args:
        store: The store.
        request: How to draw each of them; its prompt stands for none.
        lines: The prompts.
        folder: See `generate`, as for the others.
        device: "auto", "cpu" or "cuda".
        progress: See `generate`.
        written: See `generate`.
        warn: See `generate`.

    Raises:
        ConceptctlError: As `generate` does; what is wrong with a prompt names its line.
    """
    check(request)
    _check_places(folder, None)
    watch = Watch(progress, written, warn)
    images: list[Drawn] = []
    with writable(folder):
        model, all_asked = prepare(store, request, lines, device, watch)
        for asked in all_asked:
            found, _ = _draw(model, asked, folder, watch, None)
            images += found
    named = tuple(dict.fromkeys(name for asked in all_asked for name in asked.named))
    return Generated(model.generation.seq, tuple(images), None, (), named, model.known)


def _draw(
    model: Model, asked: Asked, folder: Path, watch: Watch, pictures: list[Image.Image] | None
) -> tuple[list[Drawn], tuple[str, ...]]:
    """Draw a prompt's pictures and write them.

    Args:
        model: What draws.
        asked: The prompt.
        folder: Where to.
        watch: Who is told.
        pictures: Where the pictures are put too; None to pass over those that are in the folder already.

    Returns:
        The pictures, in the order of their seeds; and the prompts of its regions.
    """
    from conceptctl.diffusion.composition.regions import prompts_of
    from conceptctl.diffusion.models import enough_memory

    request, made = asked.request, {}
    # Where another run made it too, and failed, it is gone again.
    folder.mkdir(parents=True, exist_ok=True)
    seeds = range(request.seed, request.seed + request.count)
    paths = {seed: folder / f"{_stem(request.prompt)}-{seed}.png" for seed in seeds}
    if pictures is None and model.size:
        for seed, path in paths.items():
            if there := drawn_already(path, model.recipe(asked, seed, model.size)):
                made[seed] = Drawn(there, seed, request.prompt, new=False)
    model.count.add(len(made))
    if missing := [seed for seed in seeds if seed not in made]:
        with enough_memory(MORE_MEMORY), at_place(asked.place):
            sample = model.sampler_for(asked)
        warn_of_length(model, asked, watch)
        for batch in in_batches(missing, request.batch_size):
            model.count.together = len(batch)
            with enough_memory(MORE_MEMORY):
                drawn = sample(batch)
            for seed, picture in zip(batch, drawn, strict=True):
                info = png_info(model.recipe(asked, seed, picture.size)) if request.metadata else None
                path = save_new(picture, paths[seed], noted=request.metadata, info=info)
                made[seed] = Drawn(path, seed, request.prompt)
                watch.written(path)
                if pictures is not None:
                    pictures.append(picture)
    return [made[seed] for seed in seeds], prompts_of(asked.composed)[1:]


def _stem(prompt: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return words[:60].rstrip("-") or "picture"


def _check_places(folder: Path, grid: Path | None) -> None:
    """Refuse what is no folder, and a contact sheet that cannot be one; whether they can be written is tried out."""
    from conceptctl.images.writing import check_kind

    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", hint="-o takes a folder; --grid the contact sheet's file")
    if grid is not None:
        check_kind(grid)
        if os.path.lexists(grid) and grid.is_dir():
            raise UsageError(f"{grid} is a folder", hint="--grid takes a file")
