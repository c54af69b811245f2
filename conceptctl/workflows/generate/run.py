"""`generate`: pictures of what a store's model knows."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import conceptctl
from conceptctl.errors import NotFound, StoreDamaged, UsageError
from conceptctl.families import family_of
from conceptctl.images.contact_sheet import contact_sheet
from conceptctl.images.png import png_info
from conceptctl.images.writing import save_new
from conceptctl.presets import preset_of
from conceptctl.store.concept import read_record
from conceptctl.store.manifest import Concept, Generation
from conceptctl.store.store import Store
from conceptctl.workflows.drawing import draw
from conceptctl.workflows.generate.compose import compose
from conceptctl.workflows.model import load
from conceptctl.workflows.places import check_name, shortened, writable
from conceptctl.workflows.progress import Progress, Stages, ignore_all

if TYPE_CHECKING:
    from PIL import Image

    from conceptctl.diffusion.composition.regions import Prompt
    from conceptctl.learning.backbone import Sampler

MOST_SEEDS = 2**63
MOST_STEPS = 1000
"""The noise schedules of every base that there is have a thousand."""
MORE_MEMORY = "--device cpu, or close what else needs memory"


@dataclass(frozen=True)
class Request:
    """What to draw, and how. `None` leaves the choice to the base."""

    prompt: str
    count: int = 1
    seed: int = 0
    """Seed of the first picture; picture i has seed + i."""
    steps: int | None = None
    guidance: float | None = None
    negative: str = ""
    prompt_only: bool = False
    """Whether to draw from the prompt alone, as programs do that know only diffusers: see `compose`."""
    at: int | None = None
    """The generation to draw with; the newest by default."""
    metadata: bool = True
    """Whether the files say how they were made."""


@dataclass(frozen=True)
class Drawn:
    """One picture that was written."""

    path: Path
    seed: int


@dataclass(frozen=True)
class Generated:
    """What a run of `generate` wrote."""

    generation: int
    images: tuple[Drawn, ...]
    contact_sheet: Path
    regions: tuple[str, ...] = ()
    """The prompt of each region, from left to right, where the prompt names several concepts."""
    named: tuple[str, ...] = ()
    """The concepts that the prompt names."""
    known: tuple[str, ...] = ()
    """All concepts of the generation."""


@dataclass(frozen=True)
class _Watch:
    """Who is told how a run goes; see `generate`."""

    progress: Stages
    written: Callable[[Path], None]
    warn: Callable[[str], None]


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
    _check(request)
    _check_places(folder, grid)
    sheet = grid or folder / "contact-sheet.png"
    check_name(sheet)
    with writable(folder), writable(sheet.parent):
        return _generate(store, request, folder, sheet, device, _Watch(progress, written, warn))


def _generate(store: Store, request: Request, folder: Path, sheet: Path, device: str, watch: _Watch) -> Generated:
    from conceptctl.diffusion.models import enough_memory

    with enough_memory(MORE_MEMORY):
        ready = _prepare(store, request, device, watch)
    # Where another run made it too, and failed, it is gone again.
    folder.mkdir(parents=True, exist_ok=True)
    images, pictures = [], []
    drawing = draw(ready.sample, [request.seed + index for index in range(request.count)])
    for seed in range(request.seed, request.seed + request.count):
        with enough_memory(MORE_MEMORY):
            picture = next(drawing)
        info = png_info(ready.recipe(request, seed, picture)) if request.metadata else None
        path = save_new(picture, folder / f"{_stem(request.prompt)}-{seed}.png", noted=request.metadata, info=info)
        images.append(Drawn(path, seed))
        pictures.append(picture)
        watch.written(path)
    sheet.parent.mkdir(parents=True, exist_ok=True)
    seeds = [f"seed {image.seed}" for image in images]
    sheet = save_new(contact_sheet(pictures, request.prompt, seeds), sheet, noted=request.metadata)
    watch.written(sheet)
    known = tuple(concept.name for concept in ready.generation.concepts)
    return Generated(ready.generation.seq, tuple(images), sheet, ready.regions, ready.named, known)


@dataclass(frozen=True)
class _Ready:
    """A model that is loaded, and how it draws a request."""

    generation: Generation
    sample: Sampler
    composed: Prompt
    steps: int
    guidance: float
    scheduler: str
    left_out: tuple[str, ...]
    """Concepts that are damaged, and that the prompt does not name."""
    regions: tuple[str, ...]
    named: tuple[str, ...]

    def recipe(self, request: Request, seed: int, picture: Image.Image) -> dict[str, object]:
        """All that makes one picture."""
        base, composed = self.generation.base, self.composed
        return {
            "prompt": request.prompt,
            "negative": request.negative,
            "seed": seed,
            "steps": self.steps,
            "guidance": self.guidance,
            "size": "{}x{}".format(*picture.size),
            "sampler": self.scheduler,
            "base": base.name,
            "base_sha256": base.sha256,
            "generation": self.generation.seq,
            "generation_id": self.generation.identity,
            "program": conceptctl.__version__,
            "drawn_from": {"prompt": composed} if isinstance(composed, str) else asdict(composed),
            **({"without": list(self.left_out)} if self.left_out else {}),
        }


def _prepare(store: Store, request: Request, device: str, watch: _Watch) -> _Ready:
    """Find what the prompt names, load the model, and encode what it draws from."""
    from conceptctl.diffusion.composition.regions import prompts_of
    from conceptctl.diffusion.prompt_warnings import prompt_warnings
    from conceptctl.diffusion.prompts import cut_off, names_in

    with store.reading() as head:
        generation = head if request.at is None else store.drawable(request.at)
        known = [concept.name for concept in generation.concepts]
        named = names_in(request.prompt, known)
        needed = {*named, *names_in(request.negative, known)}
        if not request.prompt.strip():
            watch.warn("the prompt is empty: the model draws whatever it likes")
        for text in (request.prompt, request.negative):
            for warning in prompt_warnings(text, known):
                watch.warn(warning)
        if len(named) > 1 and not request.prompt_only and not family_of(generation.base).REGIONS:
            raise UsageError("this base cannot paint several concepts into a picture", hint="--prompt-only")
        composed = request.prompt if request.prompt_only else compose(store, generation, request.prompt, named)

        def spare(concept: Concept, error: StoreDamaged) -> None:
            if concept.name in needed or concept.uid in _gone_on_from(store, generation, needed):
                raise error
            left_out.append(concept.name)
            watch.warn(f"{error}; drawn without it")

        left_out: list[str] = []
        watch.progress("loading the model")(0, 0)
        backbone = load(store, generation, device, spare)
    texts = prompts_of(composed)
    sampling = preset_of(generation.base).sampling
    steps = request.steps or sampling.steps
    guidance = request.guidance if request.guidance is not None else sampling.guidance
    count = _step_count(watch.progress("denoising steps"), steps, request.count)
    sample = backbone.sampler(composed, steps=steps, guidance=guidance, negative=request.negative, watch=count)
    for what, text in (*(("prompt", text) for text in texts), ("negative prompt", request.negative)):
        if lost := cut_off(backbone.tokenizer(), text):
            watch.warn(f"the {what} is too long for this base; not seen: {shortened(lost)!r}")
    scheduler = backbone.scheduler_name()
    return _Ready(generation, sample, composed, steps, guidance, scheduler, tuple(left_out), texts[1:], named)


def _step_count(tell: Progress, steps: int, pictures: int) -> Callable[[float], None]:
    """What counts the denoising steps of all pictures, given how far each of them is."""
    drawn = 0

    def count(share: float) -> None:
        nonlocal drawn
        tell(round((drawn + share) * steps), pictures * steps)
        drawn += share == 1

    return count


def _gone_on_from(store: Store, generation: Generation, names: Collection[str]) -> set[str]:
    """The uids of concepts that others of some names go on from: what those draw is not there without them."""
    chosen = [concept for concept in generation.concepts if concept.name in names]
    return {uid for concept in chosen for uid in read_record(store.blob(concept, read=True)).contains}


def _check(request: Request) -> None:
    for what, text in (("prompt", request.prompt), ("negative prompt", request.negative)):
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UsageError(f"the {what} is not UTF-8 text", hint="write it in UTF-8")
    if request.count < 1 or (request.steps is not None and request.steps < 1):
        raise UsageError("pictures and steps are counted from 1")
    if request.steps is not None and request.steps > MOST_STEPS:
        raise UsageError(f"there are at most {MOST_STEPS} steps, not {request.steps}")
    if request.guidance is not None and not math.isfinite(request.guidance):
        raise UsageError(f"guidance cannot be {request.guidance}", hint="--guidance 7.5; 1 or less is none")
    if not 0 <= request.seed <= MOST_SEEDS - request.count:
        raise UsageError("a seed is a number from 0 to 2^63")
    if request.at is not None and request.at < 0:
        raise NotFound(f"no generation {request.at}", hint="conceptctl log")


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
