"""`learn`: pictures of one concept, taught to a store's model as one generation."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import conceptctl
from conceptctl.errors import DeviceFailed, PicturesRefused
from conceptctl.store import base, concept, jobs, weights
from conceptctl.store.concept import Record
from conceptctl.store.manifest import Attachment, BlobRef, Generation, now
from conceptctl.store.store import Store, Writer
from conceptctl.workflows import auxiliary, generate
from conceptctl.workflows.concept_files import add_concept, check_free
from conceptctl.workflows.defaults import defaults_of
from conceptctl.workflows.lesson import (
    Plan,
    Request,
    Watch,
    check_facts,
    check_pictures,
    is_described,
    make_method,
    planned,
    precision_of,
    prompts_of,
)
from conceptctl.workflows.recall import PLACEHOLDER
from conceptctl.workflows.slots import begun_otherwise, from_slot, save_drawn, save_state

if TYPE_CHECKING:
    from PIL import Image
    from torch import Generator, Tensor

    from conceptctl.diffusion.examples import Examples
    from conceptctl.diffusion.fit import State, Trainable
    from conceptctl.diffusion.models import Pipeline
    from conceptctl.diffusion.projections import Stacks
    from conceptctl.methods.base import Method, Task
    from conceptctl.metrics.features import FeatureExtractor

PREVIEW_PICTURES = 4
MORE_MEMORY = "--train-batch-size 1, --gradient-checkpointing, --aux 0, or --device cpu"
HEALTH_BATCHES = 4
"""Batches on which a mask's loss with noise is compared with its loss without."""


@dataclass(frozen=True)
class Learned:
    """What a run of `learn` committed."""

    plan: Plan
    generation: Generation
    record: Record
    seconds: float


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
    check_facts(request)
    # Methods bring torch, and whoever has to wait for another is told before that.
    with store.writing("learn", wait=wait) as writer:
        method = make_method(request, writer.head.base.name)
        check_free(writer, _draft(request, method, writer.head))
        learning = _Learning(store, writer, request, method, device, watch)
        from conceptctl.diffusion.models import enough_memory

        with enough_memory(MORE_MEMORY):
            return learning.run()


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


class _Learning:
    """One run, from pictures to a generation."""

    def __init__(
        self, store: Store, writer: Writer, request: Request, method: Method, device: str, watch: Watch
    ) -> None:
        from conceptctl.diffusion import models
        from conceptctl.workflows import extractor

        self.store, self.writer, self.request, self.method, self.watch = store, writer, request, method, watch
        self.head = writer.head
        self.began = time.monotonic()
        self.device = models.choose_device(device)
        self.precision = precision_of(request, self.device.type)
        # On a GPU the model itself is in bf16.
        self.autocast = self.precision == "bf16" and self.device.type == "cpu"
        self.checked = check_pictures(store, self.head, request, watch)
        self.plan = planned(self.head, request, method, self.checked, str(self.device), self.precision)
        self.attachments: tuple[Attachment, ...] = self.head.attachments
        if request.auxiliary and not request.class_word:
            watch.warn("no class word (--class), so no auxiliary pictures are drawn")
        if self.device.type == "cpu" and self.head.base.name != "pocket":
            watch.warn("a base of this size takes hours on a CPU; with a GPU: --device cuda")
        described = is_described(request, method, self.checked)
        self.remembered = defaults_of(self.head.base).remembered if request.remembered is None else request.remembered
        # One that is not there is said now, and not when everything is drawn or learned.
        self.extractor: FeatureExtractor | None = None
        if described or request.feature_extractor is not None:
            self.extractor = extractor.open_extractor(self.head.base, request.feature_extractor, self.device)
        elif self.remembered > 0:
            self.extractor = extractor.find_extractor(self.head.base, watch.warn)
        self.describer = self.extractor if described else None

    def run(self) -> Learned:
        """Train, remember, commit."""
        import torch

        from conceptctl.diffusion import models
        from conceptctl.diffusion.fit import Callbacks, fit
        from conceptctl.diffusion.shield import shielded

        job, state = self._job()
        pipeline = self._pipeline(job, state)
        number = self._add_token(pipeline)
        examples = self._examples(pipeline, number)
        task = self._task(pipeline, number)
        trainable = self.method.attach(task).to(self.device)
        schedule = self.method.config.schedule(self.request.train.seed)
        if self.request.gradient_checkpointing:
            pipeline.unet.enable_gradient_checkpointing()

        def penalty(deltas: Stacks, share: float, generator: Generator) -> Mapping[str, Tensor]:
            return self.method.penalty(trainable, deltas, task, share, generator)

        self.watch.stage("learning", schedule.steps)
        self.watch.advance(state.step if state else 0)
        callbacks = Callbacks(
            report=self.watch.report,
            save=lambda reached: save_state(job, reached, self.kept),
            preview=self._previewer(pipeline) if self.watch.preview else None,
        )
        end = fit(
            pipeline,
            number,
            trainable,
            examples,
            schedule,
            penalty,
            autocast=self.autocast,
            state=state,
            callbacks=callbacks,
        )
        deltas = {place: delta.detach().float().cpu() for place, delta in trainable.folded().items()}
        row = trainable.token().detach().float().cpu()
        if not all(bool(learned.isfinite().all()) for learned in (*deltas.values(), row)):
            raise DeviceFailed("what was learned holds nan or inf; nothing is kept", hint="a smaller --learning-rate")
        # Remembering can take longer than learning, and a signal may come meanwhile.
        save_state(job, end, self.kept)
        health = self._health(pipeline, number, trainable, examples, schedule)
        # In fp32, as they are stored and loaded: a GPU's own weights are rounded already.
        before = {place: torch.from_numpy(self.folded[place]) for place in deltas}
        models.set_weights(pipeline, {place: before[place] + delta for place, delta in deltas.items()})
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
        from conceptctl.diffusion.fit import STATE_FORMAT

        self.begun: Tensor | None = None
        settings = {
            "name": self.request.name,
            "class": self.request.class_word,
            "method": self.method.name,
            "config": dataclasses.asdict(self.method.config),
            "auxiliary": self.plan.auxiliary,
            "seed": self.request.train.seed,
            "flip": self.request.flip,
            "precision": self.precision,
            "program": conceptctl.__version__,
            "state_format": STATE_FORMAT,
            # What is learned on top of; folding it meanwhile, or evaluating it, changes nothing for this run.
            "after": [each.uid for each in self.head.concepts],
        }
        if self.describer:
            # Another one would see other things in the same pictures.
            settings["described_by"] = self.describer.sha256
        if begun_otherwise(self.writer.layout, settings):
            self.watch.warn(
                "an interrupted run of this was begun by another version or in another precision; it begins anew"
            )
        job = jobs.start(self.writer.layout, settings)
        self.kept: dict[str, Any] = {
            "pictures": [
                job.digest(picture.pixels + (picture.caption or "").encode()) for picture in self.checked.pictures
            ]
        }
        slot = job.load()
        if slot is None:
            return job, None
        if slot.state.get("pictures") != self.kept["pictures"]:
            # The same command over other pictures is another run.
            job.finish()
            return self._job()
        if slot.step < 0:
            self.begun = from_slot(slot).tensors["latents"]
            return job, None
        if found := slot.state.get("auxiliary"):
            self.attachments = auxiliary.with_kept(self.writer.layout, self.attachments, BlobRef(**found))
        state: State = from_slot(slot)
        return job, state

    def _pipeline(self, job: jobs.Job, state: State | None) -> Pipeline:
        """Load the base, draw what it is regularized with, and give it everything that was learned."""
        self.watch.stage("loading the model", 0)
        pipeline = generate.load_base(self.store, self.head, str(self.device), in_full=self.precision == "no")
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
                self.begun,
                lambda drawn: save_drawn(job, drawn, self.plan.auxiliary, self.kept),
            )
            # They may take longer than the training: an interrupted run finds them again.
            kept = self.attachments[-1].blob
            self.kept["auxiliary"] = {"sha256": kept.sha256, "size": kept.size}
            if state is None:
                job.save(0, {}, {"curve": [], "counted": 0, **self.kept})
        self.folded = generate.apply_concepts(self.store, self.head, pipeline)
        return pipeline

    def _add_token(self, pipeline: Pipeline) -> int:
        from conceptctl.diffusion import conditioning, models

        self.start = conditioning.starting_row(pipeline, self.request.class_word)
        return models.add_concept(pipeline, self.request.name, self.start)

    def _examples(self, pipeline: Pipeline, number: int) -> Examples:
        from conceptctl.diffusion.prompts import cut_off
        from conceptctl.workflows.examples import gather

        pictures = [picture.image() for picture in self.checked.pictures]
        of_each = self._prompts(pipeline, pictures)
        for prompt in self.plan.prompts:
            if lost := cut_off(pipeline.tokenizer, prompt):
                self.watch.warn(f"a caption is too long for this base; not seen: {lost!r}")
            if number not in pipeline.tokenizer(prompt, truncation=True).input_ids:
                raise PicturesRefused(
                    f"the caption {prompt!r} is too long for this base, which does not see its V*{self.request.name}",
                    hint="shorten it, or name the concept earlier",
                )
        beside = (self.auxiliary, auxiliary.prompt_of(self.request.class_word)) if self.auxiliary is not None else None
        return gather(pipeline, pictures, of_each, flip=self.request.flip, auxiliary=beside)

    def _prompts(self, pipeline: Pipeline, pictures: list[Image.Image]) -> list[list[str]]:
        """The prompts of each picture: one, or with what is around the concept too where there is no caption."""
        from conceptctl.workflows import describe

        prompts = [[prompt] for prompt in prompts_of(self.request, self.method, self.checked)]
        if self.describer:
            self.watch.stage("describing the pictures", 0)
            silent = [index for index, picture in enumerate(self.checked.pictures) if not picture.caption]
            shown = [pictures[index] for index in silent]
            around = describe.surroundings(self.describer, pipeline.tokenizer, shown, self.request.class_word)
            for index, phrase in zip(silent, around, strict=True):
                prompts[index] = describe.described(prompts[index][0], phrase)
            different = tuple(dict.fromkeys(chain.from_iterable(prompts)))
            notes = (*self.checked.notes, describe.summary(around))
            self.plan = dataclasses.replace(self.plan, prompts=different, notes=notes)
        return prompts

    def _task(self, pipeline: Pipeline, number: int) -> Task:
        import torch

        from conceptctl.diffusion import conditioning
        from conceptctl.diffusion.projections import Stacks, cross_attention, shapes_of, sizes_of
        from conceptctl.methods.base import Task
        from conceptctl.workflows import describe

        projections = cross_attention(pipeline.unet)
        shapes = shapes_of(projections)
        states, sizes = None, {}
        if self.method.config.preservation_weight or self.method.config.damping:
            # Of the model that this concept is learned on: earlier ones are kept as they are drawn now.
            states = conditioning.known_states(pipeline, [auxiliary.prompt_of(self.request.class_word)], without=number)
            # What projections make of the usual prompts is the measure, or it would grow with what is kept.
            sizes = sizes_of(projections, states)
            kept = [describe.usual(pipeline.tokenizer, each.name) for each in self.head.concepts]
            states = conditioning.with_kept(pipeline, states, kept)
        found = base.tensors(self.store.layout, self.head.base)
        earlier = {
            place: torch.from_numpy(self.folded[place] - weights.read_floats(*found[place][:2])).abs()
            for place in (shapes if self.head.concepts else {})
        }
        # Tokens alone change no weights, and are nothing to look after.
        changed = any(total.any() for total in earlier.values())
        return Task(
            shapes,
            self.start,
            Stacks.of({place: total.to(self.device) for place, total in earlier.items()} if changed else {}),
            self.request.train.seed,
            states,
            sizes,
        )

    def _drawn_on(self) -> str:
        """Name the device, and the precision where evaluation will draw in another one."""
        in_full = self.device.type != "cpu" and self.precision == "no"
        return self.device.type + ("-fp32" if in_full else "")

    def _prompt(self) -> str:
        """What is drawn to remember the concept by, `{}` standing for its name: as the method has it."""
        prompt = self.method.prompt.format_map({"token": PLACEHOLDER, "word": self.request.class_word})
        return " ".join(prompt.split())

    def _previewer(self, pipeline: Pipeline) -> Callable[[int], None]:
        from conceptctl.diffusion.sampling import draw_set

        defaults = defaults_of(self.head.base)
        prompt = self._prompt().format(self.request.name)

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

        measures = trainable.adapter.measures() if trainable.adapter else {}
        if not measures:
            # Nothing is random in what is learned.
            return {}
        found = {name: value.item() for name, value in measures.items()}
        for name, sampled in (("loss_sampled", True), ("loss_folded", False)):
            found[name] = denoising_loss(
                pipeline,
                number,
                trainable,
                examples,
                schedule,
                batches=HEALTH_BATCHES,
                sampled=sampled,
                autocast=self.autocast,
            )
        return found

    def _remember(self, pipeline: Pipeline) -> tuple[Any, dict[str, Any]]:
        """Draw the concept and keep the features of the pictures, where there is something to extract them with."""
        from conceptctl.diffusion.sampling import draw_set

        if self.remembered <= 0 or self.extractor is None:
            return None, {}
        defaults = defaults_of(self.head.base)
        self.watch.stage("remembering", self.remembered)
        pictures = []
        for picture in draw_set(
            pipeline,
            self._prompt().format(self.request.name),
            self.remembered,
            steps=defaults.steps,
            guidance=defaults.guidance,
        ):
            pictures.append(picture)
            self.watch.advance(1)
        return self.extractor.images(pictures).numpy(), {
            "remembered_prompt": self._prompt(),
            "remembered_steps": defaults.steps,
            "remembered_device": self._drawn_on(),
            "remembered_guidance": defaults.guidance,
            "feature_extractor": self.extractor.sha256,
        }

    def _record(
        self, end: State, trainable: Trainable, health: Mapping[str, float], remembered: Mapping[str, Any]
    ) -> Record:
        trained = sum(parameter.numel() for parameter in trainable.parameters())
        token = sum(parameter.numel() for parameter in trainable.token.parameters())
        return dataclasses.replace(
            _draft(self.request, self.method, self.head),
            photos=self.plan.pictures,
            settings={
                **{name: value for name, value in dataclasses.asdict(self.method.config).items() if name != "steps"},
                "auxiliary": self.plan.auxiliary,
                "precision": self.precision,
                "trained_parameters": trained,
                "trained_in_unet": trained - token,
                **{name: round(value, 6) for name, value in health.items()},
                **remembered,
            },
            loss_curve=tuple(round(value, 6) for value in end.curve),
        )
