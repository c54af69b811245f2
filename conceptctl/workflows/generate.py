"""`generate`: pictures of what a store's model knows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import conceptctl
from conceptctl.errors import NotFound, StoreDamaged, UsageError
from conceptctl.store import base, folded
from conceptctl.store.folded import Spare
from conceptctl.store.manifest import Concept, Generation
from conceptctl.store.store import Store
from conceptctl.workflows.compose import compose
from conceptctl.workflows.defaults import defaults_of

if TYPE_CHECKING:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from conceptctl.diffusion.models import Pipeline
    from conceptctl.store.weights import Array

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
    columns: tuple[str, ...] = ()
    """The prompt of each column, from left to right, where the prompt names several concepts."""


def generate(
    store: Store,
    request: Request,
    folder: Path,
    *,
    grid: Path | None = None,
    device: str = "auto",
    progress: Callable[[Path], None] = lambda path: None,
    warn: Callable[[str], None] = lambda text: None,
) -> Generated:
    """Draw pictures and write them as PNG files, with a contact sheet; nothing is overwritten.

    Args:
        store: The store; it is only read, so that this works while something is learned.
        request: What to draw.
        folder: Where to; it is made when it is missing.
        grid: Where to write the contact sheet; `contact-sheet.png` in the folder by default.
        device: "auto", "cpu" or "cuda".
        progress: Called with each picture's path once it is written.
        warn: Called with what a user should know.

    Raises:
        NotFound: The prompt names a concept, or the request a generation, that is not there.
        StoreDamaged: Something that the pictures need is damaged.
        UsageError: A number or a place that cannot be meant.
        DeviceFailed: Memory ran out.
    """
    _check(request)
    _check_places(folder, grid)
    from conceptctl.diffusion.columns import Composition, prompts_of
    from conceptctl.diffusion.models import enough_memory
    from conceptctl.diffusion.prompts import cut_off, names_in
    from conceptctl.diffusion.sampling import check_paintable, draw

    with store.reading() as head, enough_memory(MORE_MEMORY):
        generation = head if request.at is None else store.generation(request.at)
        known = [concept.name for concept in generation.concepts]
        named = names_in(request.prompt, known)
        needed = {*named, *names_in(request.negative, known)}
        composed = request.prompt if request.prompt_only else compose(store, generation, request.prompt, named)

        def spare(concept: Concept, error: StoreDamaged) -> None:
            if concept.name in needed:
                raise error
            left_out.append(concept.name)
            warn(f"{error}; drawn without it")

        left_out: list[str] = []
        pipeline = load(store, generation, device, spare)
    if isinstance(composed, Composition):
        check_paintable(pipeline)
    texts = prompts_of(composed)
    for what, text in (*(("prompt", text) for text in texts), ("negative prompt", request.negative)):
        if lost := cut_off(pipeline.tokenizer, text):
            warn(f"the {what} is too long for this base; not seen: {lost!r}")
    defaults = defaults_of(generation.base)
    steps = request.steps or defaults.steps
    guidance = request.guidance if request.guidance is not None else defaults.guidance
    seeds = [request.seed + index for index in range(request.count)]
    folder.mkdir(parents=True, exist_ok=True)
    images, pictures = [], []
    drawing = draw(pipeline, composed, seeds, steps=steps, guidance=guidance, negative=request.negative)
    for seed in seeds:
        with enough_memory(MORE_MEMORY):
            picture = next(drawing)
        recipe = {
            "prompt": request.prompt,
            "negative": request.negative,
            "seed": seed,
            "steps": steps,
            "guidance": guidance,
            "size": "{}x{}".format(*picture.size),
            "sampler": type(pipeline.scheduler).__name__.removesuffix("Scheduler"),
            "base": generation.base.name,
            "base_sha256": generation.base.sha256,
            "generation": generation.seq,
            "generation_id": generation.identity,
            "program": conceptctl.__version__,
            "drawn_from": {"prompt": composed} if isinstance(composed, str) else asdict(composed),
            **({"without": left_out} if left_out else {}),
        }
        info = png_info(recipe) if request.metadata else None
        path = _save_new(picture, folder / f"{_stem(request.prompt)}-{seed}.png", pnginfo=info)
        images.append(Drawn(path, seed))
        pictures.append(picture)
        progress(path)
    sheet = grid or folder / "contact-sheet.png"
    sheet.parent.mkdir(parents=True, exist_ok=True)
    sheet = _save_new(contact_sheet(pictures), sheet, pnginfo=made_by_a_model() if request.metadata else None)
    return Generated(generation.seq, tuple(images), sheet, texts[1:])


def load(store: Store, generation: Generation, device: str = "auto", spare: Spare = folded.refuse) -> Pipeline:
    """Load the base with everything that a generation knows, folded or not.

    Args:
        store: The store.
        generation: One of its generations.
        device: "auto", "cpu" or "cuda".
        spare: See `apply_concepts`.

    Raises:
        StoreDamaged: The base or a concept is damaged.
    """
    pipeline = load_base(store, generation, device)
    apply_concepts(store, generation, pipeline, spare)
    return pipeline


def load_base(store: Store, generation: Generation, device: str = "auto", *, in_full: bool = False) -> Pipeline:
    """Load the base as it was before anything was learned.

    Args:
        store: The store.
        generation: One of its generations.
        device: "auto", "cpu" or "cuda".
        in_full: In fp32 on a GPU too.

    Raises:
        StoreDamaged: The base is damaged.
    """
    from conceptctl.diffusion import models

    with base.folder(store.layout, generation) as folder:
        return models.load_pipeline(folder, models.choose_device(device), in_full=in_full)


def apply_concepts(
    store: Store, generation: Generation, pipeline: Pipeline, spare: Spare = folded.refuse
) -> Mapping[str, Array]:
    """Give the base's pipeline everything that a generation knows.

    The deltas are added in fp32 in the order of learning, as folding adds them, so that a picture is the same before
    and after.

    Args:
        store: The store.
        generation: One of its generations.
        pipeline: The base's.
        spare: What is done about concepts that are damaged and not in the stored weights.

    Returns:
        The weights that a concept can change, in fp32, by place.

    Raises:
        StoreDamaged: A concept is damaged.
    """
    import torch

    from conceptctl.diffusion import models
    from conceptctl.diffusion.projections import cross_attention
    from conceptctl.store import weights

    sums, tokens = folded.read(store.layout, generation, spare)
    models.set_weights(pipeline, {place: torch.from_numpy(weight) for place, weight in sums.items()})
    for concept in generation.concepts:
        if concept.uid in tokens:
            models.add_concept(pipeline, concept.name, torch.from_numpy(tokens[concept.uid]))
    found = base.tensors(store.layout, generation.base)
    rest = cross_attention(pipeline.unet).keys() - sums.keys()
    return sums | {place: weights.read_floats(*found[place][:2]) for place in rest}


def png_info(recipe: Mapping[str, object]) -> PngInfo:
    """Say in a PNG file how it was made, in the three ways in which programs look for it.

    `parameters` is what A1111 writes and other programs show; `conceptctl` is all of it as JSON; the XMP packet marks
    the picture as made by a trained model (IPTC digital source type).
    """
    info = made_by_a_model()
    negative = f"\nNegative prompt: {recipe['negative']}" if recipe["negative"] else ""
    info.add_text(
        "parameters",
        f"{recipe['prompt']}{negative}\nSteps: {recipe['steps']}, Sampler: {recipe['sampler']}, "
        f"CFG scale: {recipe['guidance']}, Seed: {recipe['seed']}, Size: {recipe['size']}, "
        f"Model hash: {str(recipe['base_sha256'])[:10]}, Model: {recipe['base']}",
    )
    info.add_text("conceptctl", json.dumps(recipe, ensure_ascii=False))
    return info


def made_by_a_model() -> PngInfo:
    """What says of every picture that a trained model made it."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt(
        "XML:com.adobe.xmp",
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/></rdf:RDF></x:xmpmeta>',
    )
    return info


def contact_sheet(pictures: list[Image.Image]) -> Image.Image:
    """Put pictures of one size on a sheet that is about as high as wide."""
    from PIL import Image

    columns = int(len(pictures) ** 0.5 + 0.999)
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * width, index // columns * height))
    return sheet


def _check(request: Request) -> None:
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
    from PIL import Image

    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", hint="-o takes a folder; --grid the contact sheet's file")
    if grid is not None and grid.suffix.lower() not in Image.registered_extensions():
        raise UsageError(f"{grid}: no kind of picture is called {grid.suffix!r}", hint=f"--grid {grid.stem}.png")


def _save_new(picture: Image.Image, path: Path, **how: Any) -> Path:
    """Write a picture where nothing is yet: at the path, or the first of `name-2`, `name-3`, ... that is free."""
    from PIL import Image

    kind = Image.registered_extensions()[path.suffix.lower()]
    candidate, number = path, 1
    while True:
        try:
            # Somebody else may draw into the same folder.
            with candidate.open("xb") as file:
                picture.save(file, format=kind, **how)
            return candidate
        except FileExistsError:
            number += 1
            candidate = path.with_stem(f"{path.stem}-{number}")
