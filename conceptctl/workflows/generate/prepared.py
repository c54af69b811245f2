"""What prompts are drawn from, and the model that draws them, made ready."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import conceptctl
from conceptctl.config import Drawing
from conceptctl.errors import ConceptctlError, StoreDamaged, UsageError
from conceptctl.families import FamilyModule, family_of
from conceptctl.presets import preset_of
from conceptctl.progress import Progress, Stages
from conceptctl.store.concept import read_record
from conceptctl.store.manifest import Concept, Generation
from conceptctl.store.store import Store
from conceptctl.workflows.generate.compose import compose
from conceptctl.workflows.generate.prompt_file import Line
from conceptctl.workflows.generate.request import Request, check_size, check_text, longest_side, own_side
from conceptctl.workflows.generate.strength import Strengths, check_strengths
from conceptctl.workflows.model import load
from conceptctl.workflows.places import shortened

if TYPE_CHECKING:
    from conceptctl.diffusion.composition.regions import Prompt
    from conceptctl.learning.backbone import Backbone, Sampler

MORE_MEMORY = "--low-vram, --batch-size 1, a smaller --size, or --device cpu; or close what else needs memory"


@dataclass(frozen=True)
class Watch:
    """Who is told how a run goes; see `generate`."""

    progress: Stages
    written: Callable[[Path], None]
    warn: Callable[[str], None]


class StepCount:
    """Counts the denoising steps of all pictures, told how far each batch of them is."""

    def __init__(self, tell: Progress, steps: int, pictures: int) -> None:
        self._tell, self._steps, self._pictures = tell, steps, pictures
        self._drawn = 0
        self.together = 1
        """How many pictures are drawn together."""

    def __call__(self, share: float) -> None:
        """Take what share of a batch's steps is done."""
        self._tell(round((self._drawn + share * self.together) * self._steps), self._pictures * self._steps)
        if share == 1:
            self._drawn += self.together

    def add(self, pictures: int) -> None:
        """Take that pictures need not be drawn."""
        self._drawn += pictures


@dataclass(frozen=True)
class Asked:
    """A prompt, and what is drawn for it."""

    request: Request
    place: str
    """Where the prompt stands, if in a file."""
    composed: Prompt
    negative: str
    named: tuple[str, ...]
    needed: frozenset[str]
    """The concepts that prompt and negative prompt name."""
    strengths: Mapping[str, float]


@dataclass(frozen=True)
class Model:
    """A model that is loaded, and how it draws."""

    store: Store
    generation: Generation
    backbone: Backbone
    strengths: Strengths
    steps: int
    guidance: float
    size: tuple[int, int] | None
    """Of the pictures; None where the base does not say how large they are."""
    left_out: tuple[str, ...]
    """Concepts that are damaged, and that no prompt names."""
    count: StepCount

    @property
    def known(self) -> tuple[str, ...]:
        """All concepts of the generation."""
        return tuple(concept.name for concept in self.generation.concepts)

    def sampler_for(self, asked: Asked) -> Sampler:
        """Prepare to draw a prompt, with its concepts as strong as it says."""
        request = asked.request
        self.strengths.set(asked.strengths)
        return self.backbone.sampler(
            asked.composed,
            Drawing(
                steps=self.steps,
                guidance=self.guidance,
                negative=asked.negative,
                size=request.size,
                sampler=request.sampler,
                low_vram=request.low_vram,
            ),
            watch=self.count,
        )

    def recipe(self, asked: Asked, seed: int, size: tuple[int, int]) -> dict[str, object]:
        """All that makes one picture."""
        from conceptctl.diffusion.samplers import SAMPLERS

        base, composed, request = self.generation.base, asked.composed, asked.request
        sampler = SAMPLERS[request.sampler].title if request.sampler else self.backbone.scheduler_name()
        return {
            "prompt": request.prompt,
            "negative": request.negative,
            "seed": seed,
            "steps": self.steps,
            "guidance": self.guidance,
            "size": "{}x{}".format(*size),
            "sampler": sampler,
            "base": base.name,
            "base_sha256": base.sha256,
            "generation": self.generation.seq,
            "generation_id": self.generation.identity,
            "program": conceptctl.__version__,
            "drawn_from": {"prompt": composed} if isinstance(composed, str) else asdict(composed),
            **({"strengths": dict(asked.strengths)} if asked.strengths else {}),
            **({"batch_size": request.batch_size} if request.batch_size > 1 else {}),
            **({"low_vram": True} if request.low_vram else {}),
            **({"without": list(self.left_out)} if self.left_out else {}),
        }


def prepare(
    store: Store, request: Request, lines: Sequence[Line], device: str, watch: Watch
) -> tuple[Model, list[Asked]]:
    """Judge all prompts, and load the model."""
    from conceptctl.diffusion.models import enough_memory
    from conceptctl.diffusion.samplers import check_sampler

    # Texts first: they are judged without a store.
    for line in lines:
        with at_place(line.place):
            check_text(replace(request, prompt=line.prompt))
    if request.sampler:
        request = replace(request, sampler=check_sampler(request.sampler))
    with store.reading() as head:
        generation = head if request.at is None else store.drawable(request.at)
        side = _side(store, generation, request)
        if request.size:
            step = family_of(generation.base).SIDE_STEP
            if doubt := check_size(request.size, side or 0, step, longest_side(store, generation.base)):
                watch.warn(doubt)
        if request.sampler and not family_of(generation.base).SAMPLERS:
            raise UsageError("this base is drawn with its own sampler only", hint="without --sampler")
        asked = [_ask(store, generation, replace(request, prompt=each.prompt), each.place, watch) for each in lines]
        needed = {name for each in asked for name in each.needed}

        def spare(concept: Concept, error: StoreDamaged) -> None:
            if concept.name in needed or concept.uid in _gone_on_from(store, generation, needed):
                raise error
            left_out.append(concept.name)
            watch.warn(f"{error}; drawn without it")

        left_out: list[str] = []
        watch.progress("loading the model")(0, 0)
        with enough_memory(MORE_MEMORY):
            backbone = load(store, generation, device, spare)
    sampling = preset_of(generation.base).sampling
    steps = request.steps or sampling.steps
    guidance = request.guidance if request.guidance is not None else sampling.guidance
    count = StepCount(watch.progress("denoising steps"), steps, request.count * len(asked))
    size = request.size or ((side, side) if side else None)
    strengths = Strengths(store, generation, backbone)
    return Model(store, generation, backbone, strengths, steps, guidance, size, tuple(left_out), count), asked


def _side(store: Store, generation: Generation, request: Request) -> int | None:
    """The side of the base's own pictures; None where it does not say, unless it must be known."""
    try:
        return own_side(store, generation.base)
    except StoreDamaged:
        if request.size:
            raise
        return None


def _ask(store: Store, generation: Generation, request: Request, place: str, watch: Watch) -> Asked:
    """Find what a prompt names, and what is drawn for it."""
    from conceptctl.diffusion.prompt_warnings import prompt_warnings
    from conceptctl.diffusion.prompts import names_in, with_strengths

    known = [concept.name for concept in generation.concepts]
    with at_place(place):
        prompt, strengths = with_strengths(request.prompt)
        negative, others = with_strengths(request.negative)
        named = names_in(prompt, known)
        needed = frozenset({*named, *names_in(negative, known)})
        for name, value in others.items():
            if strengths.setdefault(name, value) != value:
                raise UsageError(f"V*{name} has two strengths, {strengths[name]:g} and {value:g}", hint="say one")
        check_strengths(generation, strengths)
        if not prompt.strip():
            watch.warn("the prompt is empty: the model draws whatever it likes")
        for text in (prompt, negative):
            for warning in prompt_warnings(text, known):
                watch.warn(_placed(place, warning))
        _check_drawable(family_of(generation.base), negative, several=len(named) > 1 and not request.prompt_only)
        composed = prompt if request.prompt_only else compose(store, generation, prompt, named)
    return Asked(request, place, composed, negative, named, needed, strengths)


def _check_drawable(family: FamilyModule, negative: str, *, several: bool) -> None:
    """Refuse what a base cannot draw, before it is loaded."""
    if several and not family.REGIONS:
        raise UsageError("this base cannot paint several concepts into a picture", hint="--prompt-only")
    if negative and not family.NEGATIVE_PROMPTS:
        raise UsageError(
            "this base draws without classifier-free guidance, so a negative prompt means nothing to it",
            hint="leave --negative out",
        )


@contextmanager
def at_place(place: str) -> Iterator[None]:
    """Say of an error in which line of a file its prompt stands."""
    try:
        yield
    except ConceptctlError as error:
        if not place:
            raise
        raise type(error)(_placed(place, str(error)), hint=error.hint) from error


def _placed(place: str, text: str) -> str:
    return f"{place}: {text}" if place else text


def warn_of_length(model: Model, asked: Asked, watch: Watch) -> None:
    """Say what of a prompt the base does not see."""
    from conceptctl.diffusion.composition.regions import prompts_of
    from conceptctl.diffusion.prompts import cut_off

    texts = prompts_of(asked.composed)
    for what, text in (*(("prompt", text) for text in texts), ("negative prompt", asked.negative)):
        if lost := cut_off(model.backbone.tokenizer(), text):
            shown = f"the {what} is too long for this base; not seen: {shortened(lost)!r}"
            watch.warn(_placed(asked.place, shown))


def _gone_on_from(store: Store, generation: Generation, names: Collection[str]) -> set[str]:
    """The uids of concepts that others of some names go on from: what those draw is not there without them."""
    chosen = [concept for concept in generation.concepts if concept.name in names]
    return {uid for concept in chosen for uid in read_record(store.blob(concept, read=True)).contains}
