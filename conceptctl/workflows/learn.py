"""`learn`: pictures of one concept, taught to a store's model as one generation."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import conceptctl
from conceptctl.config import TrainConfig
from conceptctl.errors import DeviceFailed, NotFound, UsageError
from conceptctl.methods import find_method
from conceptctl.store import base, concept, jobs, weights
from conceptctl.store.concept import Record
from conceptctl.store.manifest import Attachment, Generation, now
from conceptctl.store.store import Store, Writer
from conceptctl.workflows import auxiliary, generate
from conceptctl.workflows.concept_files import add_concept, check_free, check_name_free
from conceptctl.workflows.defaults import POCKET, Defaults, defaults_of

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from conceptctl.diffusion.fit import Examples, Report, State, Trainable
    from conceptctl.diffusion.models import Pipeline
    from conceptctl.diffusion.photos.gate import Checked, Rules
    from conceptctl.methods.base import Method, Task

REMEMBERED_PROMPT = "a photo of a V*{}"
"""What is drawn to remember a concept by, and to measure what became of it."""
PREVIEW_PICTURES = 4
HEALTH_BATCHES = 4
"""Batches on which a mask's loss with noise is compared with its loss without."""
MOST_SEEDS = 2**63
_MORE_THAN_NOTHING = {"steps", "batch_size", "rank", "learning_rate", "temperature"}
_OF_EITHER_SIGN = {"open_by"}


@dataclass(frozen=True)
class Request:
    """What to learn, and how. `None` leaves the choice to the base and the method."""

    folder: Path
    name: str
    class_word: str = ""
    train: TrainConfig = field(default_factory=TrainConfig)
    auxiliary: int | None = None
    """Auxiliary pictures of the class, drawn by the base."""
    remembered: int | None = None
    """Pictures to draw afterwards, whose features are kept."""
    feature_extractor: str | None = None
    settings: Mapping[str, float | int | str] = field(default_factory=dict)
    """More of the method's own settings, by name."""
    flip: bool = False
    """Also learn from mirrored pictures."""
    gradient_checkpointing: bool = False
    """Less memory, more time."""
    skip_bad: bool = False
    first_frame: bool = False
    follow_symlinks: bool = False
    license: str = ""
    consent: str = ""


@dataclass(frozen=True)
class Plan:
    """What a run would do, known before anything is trained."""

    name: str
    method: str
    class_word: str
    config: Mapping[str, Any]
    pictures: int
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    prompts: tuple[str, ...]
    """The different prompts, with the concept's token."""
    auxiliary: int
    device: str


@dataclass(frozen=True)
class Learned:
    """What a run of `learn` committed."""

    plan: Plan
    generation: Generation
    record: Record
    seconds: float


@dataclass(frozen=True)
class Watch:
    """Who is told what while something is learned."""

    stage: Callable[[str, int], None] = lambda what, total: None
    """A new stage begins, with so many units of work; 0 where that is not known."""
    advance: Callable[[int], None] = lambda done: None
    """So many units of the stage are done."""
    report: Callable[[Report], None] = lambda report: None
    warn: Callable[[str], None] = lambda text: None
    preview: Callable[[int, list[Image.Image]], None] | None = None
    """Called with a step and pictures drawn after it."""


def learn(
    store: Store, request: Request, *, device: str = "auto", wait: bool = False, watch: Watch | None = None
) -> Learned:
    """Learn one concept on top of everything that is committed, folded or not, and commit it.

    An interrupted run is taken up where its last slot is when the same request comes again. Nothing of the pictures
    reaches the disk.

    Args:
        store: The store.
        request: What to learn.
        device: "auto", "cpu" or "cuda".
        wait: Wait while somebody else changes the store.
        watch: Who is told.

    Raises:
        UsageError: A name or a number that cannot be meant.
        PicturesRefused: The folder holds something that must not be learned from.
        AlreadyExists: There is such a concept, or the base has such a token.
        Busy: Somebody else changes the store.
        DeviceFailed: The loss became no number, or memory ran out; the store is unchanged.
    """
    watch = watch or Watch()
    _check_facts(request)
    # Methods bring torch, and whoever has to wait for another is told before that.
    with store.writing("learn", wait=wait) as writer:
        method = make_method(request, writer.head.base.name)
        check_free(writer, _draft(request, method, writer.head))
        learning = _Learning(store, writer, request, method, device, watch)
        from conceptctl.diffusion.fit import enough_memory

        with enough_memory():
            return learning.run()


def plan(store: Store, request: Request, *, device: str = "auto", watch: Watch | None = None) -> Plan:
    """Check everything that can be checked without training, and change nothing.

    Raises:
        UsageError: A name or a number that cannot be meant.
        PicturesRefused: The folder holds something that must not be learned from.
        AlreadyExists: There is such a concept.
    """
    from conceptctl.diffusion.models import choose_device

    _check_facts(request)
    head = store.head()
    method = make_method(request, head.base.name)
    check_name_free(request.name, head, store.layout)
    checked = check_pictures(store, head, request, watch or Watch())
    return _plan(head, request, method, checked, str(choose_device(device)))


def check(request: Request) -> None:
    """Check what needs no store.

    Raises:
        NotFound: There is no such method or setting.
        UsageError: A name or a number that cannot be meant.
    """
    _check_facts(request)
    make_method(request, "")


def _check_facts(request: Request) -> None:
    concept.check_name(request.name)
    word = request.class_word
    if word and (not word.isprintable() or word != " ".join(word.split()) or "V*" in word.upper()):
        raise UsageError(f"{word!a} cannot be a class", hint="--class person, --class 'mountain bike'")
    for option, text in (("--license", request.license), ("--consent", request.consent)):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError(f"{option} {text!a} is not UTF-8 text") from None
    if request.auxiliary is not None and request.auxiliary < 0:
        raise UsageError(f"auxiliary pictures are counted from 0, not {request.auxiliary}", hint="--aux 0 for none")
    if not 0 <= request.train.seed < MOST_SEEDS:
        raise UsageError("a seed is a number from 0 to 2^63")


def make_method(request: Request, base_name: str) -> Method:
    """Make the method that a request asks for, with its settings.

    The method's own defaults are the papers'; the base may have others, and the user has the last word.

    Raises:
        NotFound: There is no such method or setting.
        UsageError: A number that cannot be meant.
    """
    from conceptctl.methods.base import SCHEDULERS

    found = find_method(request.train.method)
    known = {each.name for each in dataclasses.fields(found.configuration)}
    asked = {
        name: value for name, value in dataclasses.asdict(request.train).items() if name in known and value is not None
    }
    if unknown := sorted(set(request.settings) - known):
        raise NotFound(f"{found.name} has no setting {unknown[0]!r}", hint="settings: " + ", ".join(sorted(known)))
    values = {**(found.pocket if base_name == "pocket" else {}), **asked, **request.settings}
    if request.class_word == "" or request.auxiliary == 0:
        values["auxiliary_batch"] = 0
    config = found.configuration(**values)
    for each in dataclasses.fields(config):
        _check_number(each.name, getattr(config, each.name), type(each.default))
    if config.scheduler not in SCHEDULERS:
        raise UsageError(f"there is no scheduler {config.scheduler!r}", hint="schedulers: " + ", ".join(SCHEDULERS))
    return found(config)


def _check_number(name: str, value: Any, kind: type) -> None:
    if kind is str:
        # Words are looked up in a list, where a number is not found.
        return
    words = name.replace("_", " ")
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise UsageError(f"{words} must be a {'whole number' if kind is int else 'number'}, not {value!r}")
    if not math.isfinite(value):
        raise UsageError(f"{words} cannot be {value}")
    if name in _MORE_THAN_NOTHING and value <= 0:
        raise UsageError(f"{words} must be more than 0, not {value}")
    if name not in _OF_EITHER_SIGN and value < 0:
        raise UsageError(f"{words} cannot be less than 0, as {value} is")


def check_pictures(store: Store, head: Generation, request: Request, watch: Watch) -> Checked:
    """Pass a folder through the picture gate, as the store's base asks for it.

    Raises:
        PicturesRefused: It holds something that must not be learned from.
    """
    from conceptctl.diffusion.photos.gate import check_folder

    rules = _rules(base.picture_side(store.layout, head.base), defaults_of(head.base), request)
    watch.stage("looking at the pictures", 0)
    checked = check_folder(request.folder, rules, progress=lambda done, total: watch.advance(1))
    if checked.photographic and head.base.name == "pocket":
        watch.warn(
            "these look like photographs, and this base draws 64 x 64 pictures: likeness is not to be expected "
            "(for photographs: conceptctl init --base HUB_ID --store DIR)"
        )
    return checked


def check_pictures_for_pocket(request: Request) -> None:
    """Pass a folder through the picture gate as a store on the bundled base would, where there is none yet.

    Raises:
        PicturesRefused: It holds something that must not be learned from.
    """
    from conceptctl.diffusion.photos.gate import check_folder
    from conceptctl.pocket.world.practice import SIZE

    check_folder(request.folder, _rules(SIZE, POCKET, request))


def _rules(side: int, defaults: Defaults, request: Request) -> Rules:
    from conceptctl.diffusion.photos.gate import Rules

    return Rules(
        side=side,
        min_side=defaults.smallest_side or side,
        skip_bad=request.skip_bad,
        first_frame=request.first_frame,
        follow_symlinks=request.follow_symlinks,
    )


def _draft(request: Request, method: Method, head: Generation) -> Record:
    return Record(
        uid=concept.new_uid(),
        name=request.name,
        class_word=request.class_word,
        method=method.name,
        learned=now(),
        program=conceptctl.__version__,
        base=head.base.sha256,
        after=head.seq,
        seed=request.train.seed,
        steps=method.config.steps,
        photos=0,
        license=request.license,
        consent=request.consent,
    )


def _plan(head: Generation, request: Request, method: Method, checked: Checked, device: str) -> Plan:
    count = defaults_of(head.base).auxiliary if request.auxiliary is None else request.auxiliary
    return Plan(
        name=request.name,
        method=method.name,
        class_word=request.class_word,
        config=dataclasses.asdict(method.config),
        pictures=len(checked.pictures),
        skipped=tuple(str(refusal) for refusal in checked.refusals),
        notes=checked.notes,
        prompts=tuple(dict.fromkeys(_prompts(request, method, checked))),
        auxiliary=count if method.config.auxiliary_batch else 0,
        device=device,
    )


def _prompts(request: Request, method: Method, checked: Checked) -> list[str]:
    token = f"V*{request.name}"
    plain = " ".join(method.prompt.format(token=token, word=request.class_word).split())
    return [picture.caption.replace("{token}", token) if picture.caption else plain for picture in checked.pictures]


class _Learning:
    """One run, from pictures to a generation."""

    def __init__(
        self, store: Store, writer: Writer, request: Request, method: Method, device: str, watch: Watch
    ) -> None:
        from conceptctl.diffusion import models
        from conceptctl.workflows.extractor import open_extractor

        self.store, self.writer, self.request, self.method, self.watch = store, writer, request, method, watch
        self.head = writer.head
        self.began = time.monotonic()
        self.device = models.choose_device(device)
        self.checked = check_pictures(store, self.head, request, watch)
        self.plan = _plan(self.head, request, method, self.checked, str(self.device))
        self.attachments: tuple[Attachment, ...] = self.head.attachments
        if self.device.type == "cpu" and self.head.base.name != "pocket":
            watch.warn("a base of this size takes hours on a CPU; with a GPU: --device cuda")
        if request.feature_extractor is not None:
            # One that was asked for and is not there is said now, and not when everything is learned.
            open_extractor(self.head.base, request.feature_extractor, self.device)

    def run(self) -> Learned:
        """Train, remember, commit."""
        from conceptctl.diffusion import models
        from conceptctl.diffusion.fit import Callbacks, Schedule, fit
        from conceptctl.diffusion.shield import shielded

        job, state = self._job()
        pipeline = self._pipeline()
        number = self._add_token(pipeline)
        examples = self._examples(pipeline)
        task = self._task(pipeline)
        trainable = self.method.attach(task).to(self.device)
        config = self.method.config
        schedule = Schedule(
            config.steps,
            config.batch_size,
            config.auxiliary_batch,
            self.request.train.seed,
            config.warmup,
            config.scheduler,
        )
        if self.request.gradient_checkpointing:
            pipeline.unet.enable_gradient_checkpointing()

        def penalty(deltas: Mapping[str, Tensor], share: float) -> Mapping[str, Tensor]:
            return self.method.penalty(trainable, deltas, task, share)

        self.watch.stage("learning", config.steps)
        self.watch.advance(state.step if state else 0)
        callbacks = Callbacks(
            report=self.watch.report,
            save=lambda reached: _save(job, reached, self.pictures),
            preview=self._previewer(pipeline) if self.watch.preview else None,
        )
        end = fit(pipeline, number, trainable, examples, schedule, penalty, state=state, callbacks=callbacks)
        deltas = {place: delta.detach().float().cpu() for place, delta in trainable.folded().items()}
        row = trainable.token().detach().float().cpu()
        if not all(bool(learned.isfinite().all()) for learned in (*deltas.values(), row)):
            raise DeviceFailed("what was learned holds nan or inf; nothing is kept", hint="a smaller --learning-rate")
        # Remembering can take longer than learning, and a signal may come meanwhile.
        _save(job, end, self.pictures)
        health = self._health(pipeline, number, trainable, examples, schedule)
        places = {place: parameter(pipeline, place) + delta.to(self.device) for place, delta in deltas.items()}
        models.set_weights(pipeline, places)
        models.set_row(pipeline, number, row)
        features, remembered = self._remember(pipeline)
        record = self._record(end, trainable, health, remembered)
        tensors = weights.concept_tensors(
            {place: weights.Delta.of(delta.numpy()) for place, delta in deltas.items()}, row.numpy(), features
        )
        ref = self.writer.add_tensors(tensors, record.metadata())
        with shielded():
            made = add_concept(self.writer, "learn", record, ref, attachments=self.attachments)
            # Also what was begun with other settings: the name is taken now.
            jobs.remove_for(self.writer.layout, self.request.name)
        return Learned(self.plan, made, record, time.monotonic() - self.began)

    def _job(self) -> tuple[jobs.Job, State | None]:
        """Find the interrupted run of this request, or begin a new one."""
        from conceptctl.workflows.slots import from_slot

        settings = {
            "name": self.request.name,
            "class": self.request.class_word,
            "method": self.method.name,
            "config": dataclasses.asdict(self.method.config),
            "auxiliary": self.plan.auxiliary,
            "seed": self.request.train.seed,
            "flip": self.request.flip,
            "program": conceptctl.__version__,
            # What is learned on top of; folding it meanwhile, or evaluating it, changes nothing for this run.
            "after": [each.uid for each in self.head.concepts],
        }
        job = jobs.start(self.writer.layout, settings)
        self.pictures = [
            job.digest(picture.pixels + (picture.caption or "").encode()) for picture in self.checked.pictures
        ]
        slot = job.load()
        if slot is None:
            return job, None
        if slot.state.get("pictures") != self.pictures:
            # The same command over other pictures is another run.
            job.finish()
            return self._job()
        state: State = from_slot(slot)
        return job, state

    def _pipeline(self) -> Pipeline:
        """Load the base, draw what it is regularized with, and give it everything that was learned."""
        self.watch.stage("loading the model", 0)
        pipeline = generate.load_base(self.store, self.head, str(self.device))
        self.auxiliary = None
        if self.plan.auxiliary:
            self.auxiliary, self.attachments = auxiliary.latents(
                self.writer,
                pipeline,
                self.request.class_word,
                self.plan.auxiliary,
                self.attachments,
                self.watch.stage,
                self.watch.advance,
            )
        generate.apply_concepts(self.store, self.head, pipeline)
        return pipeline

    def _add_token(self, pipeline: Pipeline) -> int:
        from conceptctl.diffusion import conditioning, models

        self.start = conditioning.starting_row(pipeline, self.request.class_word)
        return models.add_concept(pipeline, self.request.name, self.start)

    def _examples(self, pipeline: Pipeline) -> Examples:
        import torch
        from PIL import ImageOps

        from conceptctl.diffusion.fit import Examples
        from conceptctl.diffusion.latents import encode
        from conceptctl.diffusion.prompts import cut_off

        pictures = [picture.image() for picture in self.checked.pictures]
        prompts = _prompts(self.request, self.method, self.checked)
        for prompt in dict.fromkeys(prompts):
            if lost := cut_off(pipeline.tokenizer, prompt):
                self.watch.warn(f"a caption is too long for this base; not seen: {lost!r}")
        if self.request.flip:
            pictures += [ImageOps.mirror(picture) for picture in pictures]
            prompts *= 2
        latents = encode(pipeline, pictures)
        count = len(latents)
        if self.auxiliary is not None:
            latents = torch.cat([latents, self.auxiliary.to(self.device)])
            prompts += [auxiliary.prompt_of(self.request.class_word)] * len(self.auxiliary)
        return Examples(latents, prompts, count)

    def _task(self, pipeline: Pipeline) -> Task:
        import torch

        from conceptctl.diffusion.projections import cross_attention, shapes_of
        from conceptctl.methods.base import Task

        shapes = shapes_of(cross_attention(pipeline.unet))
        files = [path for _, path in generate.concept_files(self.store, self.head)]
        earlier = weights.summed(files, shapes)
        return Task(
            shapes,
            self.start,
            {place: torch.from_numpy(total).abs().to(self.device) for place, total in earlier.items()},
            self.request.train.seed,
        )

    def _previewer(self, pipeline: Pipeline) -> Callable[[int], None]:
        from conceptctl.diffusion.sampling import draw_set

        defaults = defaults_of(self.head.base)
        prompt = REMEMBERED_PROMPT.format(self.request.name)

        def preview(step: int) -> None:
            assert self.watch.preview is not None
            drawn = draw_set(pipeline, prompt, PREVIEW_PICTURES, steps=defaults.steps, guidance=defaults.guidance)
            self.watch.preview(step, list(drawn))

        return preview

    def _health(
        self, pipeline: Pipeline, number: int, trainable: Trainable, examples: Examples, schedule: Any
    ) -> dict[str, float]:
        """Compare the loss with noise in the masks and without, and measure the masks."""
        from conceptctl.diffusion.fit import denoising_loss

        if trainable.adapter is None:
            return {}
        found = {name: value.item() for name, value in trainable.adapter.measures().items()}
        for name, sampled in (("loss_sampled", True), ("loss_folded", False)):
            found[name] = denoising_loss(
                pipeline, number, trainable, examples, schedule, batches=HEALTH_BATCHES, sampled=sampled
            )
        return found

    def _remember(self, pipeline: Pipeline) -> tuple[Any, dict[str, Any]]:
        """Draw the concept and keep the features of the pictures, where there is something to extract them with."""
        from conceptctl.diffusion.sampling import draw_set
        from conceptctl.workflows.extractor import open_extractor

        defaults = defaults_of(self.head.base)
        count = defaults.remembered if self.request.remembered is None else self.request.remembered
        if count <= 0:
            return None, {}
        try:
            extractor = open_extractor(self.head.base, self.request.feature_extractor, self.device)
        except NotFound as error:
            self.watch.warn(f"learned without features: {error}; eval draws what it needs again ({error.hint})")
            return None, {}
        self.watch.stage("remembering", count)
        pictures = []
        for picture in draw_set(
            pipeline,
            REMEMBERED_PROMPT.format(self.request.name),
            count,
            steps=defaults.steps,
            guidance=defaults.guidance,
        ):
            pictures.append(picture)
            self.watch.advance(1)
        return extractor.images(pictures).numpy(), {
            "remembered_prompt": REMEMBERED_PROMPT,
            "remembered_steps": defaults.steps,
            "remembered_guidance": defaults.guidance,
            "feature_extractor": extractor.sha256,
        }

    def _record(
        self, end: State, trainable: Trainable, health: Mapping[str, float], remembered: Mapping[str, Any]
    ) -> Record:
        trained = sum(parameter.numel() for parameter in trainable.parameters())
        return dataclasses.replace(
            _draft(self.request, self.method, self.head),
            photos=self.plan.pictures,
            settings={
                **{name: value for name, value in dataclasses.asdict(self.method.config).items() if name != "steps"},
                "auxiliary": self.plan.auxiliary,
                "trained_parameters": trained,
                **{name: round(value, 6) for name, value in health.items()},
                **remembered,
            },
            loss_curve=tuple(round(value, 6) for value in end.curve),
        )


def _save(job: jobs.Job, state: State, pictures: list[str]) -> None:
    from conceptctl.workflows.slots import to_slot

    step, tensors, rest = to_slot(state)
    job.save(step, tensors, {**rest, "pictures": pictures})


def parameter(pipeline: Pipeline, place: str) -> Tensor:
    """The weight at a place of a pipeline."""
    component, _, name = place.partition("/")
    found: Tensor = getattr(pipeline, component).get_parameter(name)
    return found.detach()
