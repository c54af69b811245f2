"""`eval`: how every concept fares, measured against held-out pictures and against what it looked like at first."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptctl import families
from conceptctl.config import Drawing
from conceptctl.errors import AlreadyExists, NotFound, StoreDamaged, UsageError
from conceptctl.learning.launch import is_main_process, processes
from conceptctl.presets import preset_of
from conceptctl.store import base
from conceptctl.store.concept import Record, read_record
from conceptctl.store.manifest import Concept, Generation, now
from conceptctl.store.store import Store
from conceptctl.workflows import model, reference_samples
from conceptctl.workflows.drawing import BATCH, draw_set
from conceptctl.workflows.evaluate import history, verdict
from conceptctl.workflows.evaluate.beside import draw_beside, prompts_beside
from conceptctl.workflows.evaluate.evaluation import Evaluation, Measured, Parameters, Request, Shown, Watch
from conceptctl.workflows.evaluate.events import is_kept
from conceptctl.workflows.evaluate.heldout import find_folders, learned_from, read_pictures
from conceptctl.workflows.evaluate.history import Kept
from conceptctl.workflows.evaluate.judged import judge_of
from conceptctl.workflows.extractor import open_extractor

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from conceptctl.learning.backbone import Backbone
    from conceptctl.metrics.closeness import Scale
    from conceptctl.metrics.continual import Sets
    from conceptctl.workflows.evaluate.evaluation import Beside
    from conceptctl.workflows.reference_samples import Recipe

SHOWN = 6
"""Pictures of each kind that a report shows."""
ANYTHING = "thing"
"""What is drawn for comparison where a concept has no class."""


def evaluate(
    store: Store, request: Request, *, device: str = "auto", wait: bool = False, watch: Watch | None = None
) -> Evaluation:
    """Measure every concept that has held-out pictures, and keep the figures as one generation.

    Drawing comes before the store is written to, so that something else may be learned meanwhile. With several
    processes (`accelerate launch`) each draws its part, and the main one keeps the figures.

    Args:
        store: The store.
        request: What to evaluate.
        device: "auto", "cpu" or "cuda".
        wait: Wait while somebody else changes the store.
        watch: Who is told.

    Raises:
        NotFound: Nothing has held-out pictures, a name is no concept's, or there is no feature extractor.
        PicturesRefused: Held-out pictures that are no usable pictures.
        AlreadyExists: The report's file is there already.
        UsageError: A number that cannot be meant.
        Busy: Somebody else changes the store.
        StoreDamaged: Something that the pictures need is damaged.
        DeviceFailed: Memory ran out.
    """
    watch = watch or Watch()
    if request.count is not None and request.count < 2:
        raise UsageError("figures need at least 2 pictures of each concept")
    if request.report:
        _check_vacant(request.report)
    if not wait and is_main_process():
        # Hours of drawing would be for nothing if only their end found the store taken.
        with store.writing("eval"):
            pass
    from conceptctl.diffusion.models import enough_memory

    with enough_memory("-n with fewer pictures, or --device cpu"):
        run = _Run(store, request, device, watch)
        measured = run.measure()
    if not is_main_process():
        return run.summary(measured, None)
    committed = history.commit(store, [(each.uid, each.kept) for each in measured], wait=wait)
    if committed is None:
        watch.warn("none of the concepts is in the store any more: the figures are not kept")
    found = run.summary(measured, committed)
    if request.report:
        from conceptctl.workflows.evaluate.report import write_report

        write_report(store, found, request.report, warn=watch.warn)
    return found


def _check_vacant(path: Path) -> None:
    try:
        there = path.exists()
    except OSError as error:
        # A name that can never be, as one that is too long.
        raise UsageError(f"{path}: {error.strerror}", hint="--report report.html") from None
    if there:
        raise AlreadyExists(f"{path} is there already", hint="name another file: a report is never overwritten")
    if not path.parent.is_dir():
        raise NotFound(f"no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(f"{path.parent} cannot be written to", hint="--report FILE in another folder")


class _Run:
    """One run, from pictures to figures."""

    def __init__(self, store: Store, request: Request, device: str, watch: Watch) -> None:
        from conceptctl.diffusion import models
        from conceptctl.learning.processes import make_accelerator
        from conceptctl.workflows.evaluate.weight_history import follow

        self.store, self.request, self.watch = store, request, watch
        if processes() > 1:
            # All of them look at the same head: the one that is there when they have met.
            make_accelerator(models.choose_device(device)).wait_for_everyone()
        self.head = store.head()
        folders = find_folders(request.folder, request.images, self.head)
        self.left_out = folders.without
        if folders.without:
            watch.warn(f"left out, because they have no held-out pictures: {', '.join(folders.without)}")
        if folders.strange:
            watch.warn(f"folders that are called like no concept: {', '.join(folders.strange)}")
        self.accelerator = make_accelerator(models.choose_device(device))
        self.device = self.accelerator.device
        watch.stage("looking at the pictures", 0)
        found = read_pictures(
            store,
            self.head,
            folders.of,
            skip_bad=request.skip_bad,
            first_frame=request.first_frame,
            follow_symlinks=request.follow_symlinks,
            progress=lambda done, total: watch.advance(1),
            warn=watch.warn,
        )
        self.heldout = found.pictures
        # It knows drawings.
        judge = judge_of(self.head.base)
        self.judges = {name: None if name in found.photographs else judge for name in self.heldout}
        for name, folder in folders.of.items():
            if note := learned_from(folder):
                watch.warn(f"{name}: {note}")
        self.extractor = open_extractor(self.head.base, request.feature_extractor, self.device)
        self.introduced_in = reference_samples.introduced_in(store)
        shapes = {place: info.shape for place, (_, _, info) in base.tensors(store.layout, self.head.base).items()}
        adapted = {pattern.partition("/")[0] for pattern in families.facts_of(self.head.base).targets}
        self.parameters = sum(math.prod(shape) for path, shape in shapes.items() if path.partition("/")[0] in adapted)
        self.steps = follow(store, self.head, shapes)
        self.earlier = history.read_all(store.layout, self.head)
        self.beside: tuple[Beside, ...] = ()

    def measure(self) -> tuple[Measured, ...]:
        """Draw and measure every concept that has held-out pictures."""
        chosen = [concept for concept in self.head.concepts if concept.name in self.heldout]
        plans = [self._plan(concept) for concept in chosen]
        self.watch.stage("loading the model", 0)
        with self.store.reading():
            backbone = model.load_base(self.store, self.head, str(self.device))
            # While it still is the base alone, it draws what it would draw without any concept.
            classes = self._draw_classes(backbone, plans)
            model.apply_concepts(self.store, self.head, backbone)
        drawn = [
            self._draw(backbone, plan, plan.count, f"drawing V*{plan.concept.name} ({place} of {len(plans)})")
            for place, plan in enumerate(plans, 1)
        ]
        if self.request.report and is_main_process():
            prompts = prompts_beside([plan.concept.name for plan in plans])
            self.watch.stage("drawing prompts beside the concepts", len(prompts))
            recipes = {plan.concept.name: plan.recipe for plan in plans}
            self.beside = draw_beside(self.store, self.head, backbone, prompts, recipes, self.watch.advance)
        del backbone
        run = history.new_run()
        self.watch.stage("comparing", len(plans))
        return tuple(
            self._measured(plan, pictures, classes[plan.without_concept], run)
            for plan, pictures in zip(plans, drawn, strict=True)
        )

    def summary(self, measured: tuple[Measured, ...], committed: Generation | None) -> Evaluation:
        """Average over concepts."""
        from conceptctl.metrics.continual import averaged, mean

        last = [each.kept.last for each in measured]
        records = [self._record(concept) for concept in self.head.concepts]
        return Evaluation(
            head=self.head,
            committed=committed.seq if committed else None,
            measured=measured,
            averages=averaged([each.kept.figures for each in measured], last),
            parameters=Parameters(
                mean(self._share(record, "trained_in_unet") for record in records),
                mean(self._share(record, "trained_parameters") for record in records),
                100 * sum(step.drift.changed for step in self.steps if step.drift) / self.parameters,
            ),
            rbf=averaged([each.kept.rbf for each in measured], last),
            steps=self.steps,
            introduced_in=self.introduced_in,
            left_out=self.left_out,
            beside=self.beside,
            report=self.request.report,
        )

    def _record(self, concept: Concept) -> Record:
        return read_record(self.store.blob(concept))

    def _plan(self, concept: Concept) -> _Plan:
        """Decide how many pictures of a concept are drawn, and whether those of the past are drawn again."""
        record = self._record(concept)
        recipe = reference_samples.recipe_of(record, self.head.base)
        kept = reference_samples.reference_features(self.store, concept, record, self.extractor, self.device.type)
        if kept is not None and (not recipe.recorded or len(kept) < 2):
            kept = None
        count = self.request.count or (preset_of(self.head.base).learn.reference_samples if kept is None else len(kept))
        # The biased MMD depends on the number of pictures, so both sides have equally many.
        after = kept[:count] if kept is not None and len(kept) >= count else None
        again = count if after is None else (min(SHOWN, count) if self.request.report else 0)
        if self.introduced_in.get(concept.uid, -1) < self.head.floor:
            # It is not known, or what drew it then is not kept any more.
            again = 0
        return _Plan(concept, record, recipe, count, after, again)

    def _draw_classes(self, backbone: Backbone, plans: list[_Plan]) -> dict[_Drawn, Tensor]:
        """Draw what the base alone makes of each class: one batch, and its features."""
        found = {}
        for asked in dict.fromkeys(plan.without_concept for plan in plans):
            sample = backbone.sampler(asked.prompt, Drawing(asked.steps, asked.guidance))
            self.watch.stage(f"drawing {asked.prompt!r} with the base alone", BATCH)
            found[asked] = self.extractor.images(self._counted(draw_set(sample, BATCH, accelerator=self.accelerator)))
        return found

    def _draw(self, backbone: Backbone, plan: _Plan, count: int, what: str) -> list[Image.Image]:
        prompt = plan.recipe.prompt_for(plan.concept.name)
        self.watch.stage(what, count)
        sample = backbone.sampler(prompt, Drawing(plan.recipe.steps, plan.recipe.guidance))
        return self._counted(draw_set(sample, count, accelerator=self.accelerator))

    def _counted(self, drawing: Iterator[Image.Image]) -> list[Image.Image]:
        pictures = []
        for picture in drawing:
            pictures.append(picture)
            self.watch.advance(1)
        return pictures

    def _draw_again(self, plan: _Plan) -> list[Image.Image]:
        """Draw a concept with the generation that brought it: fp32 sums in one order give the weights of then."""
        if not plan.again:
            return []
        with self.store.reading():
            generation = self.store.generation(self.introduced_in[plan.concept.uid])
            backbone = model.load(self.store, generation, str(self.device))
        return self._draw(backbone, plan, plan.again, f"drawing V*{plan.concept.name} as it was just after learning")

    def _measured(self, plan: _Plan, pictures: list[Image.Image], class_pictures: Tensor, run: str) -> Measured:
        from conceptctl.metrics.closeness import scale_of
        from conceptctl.metrics.continual import Sets
        from conceptctl.workflows.evaluate.figures import cross_check, figures, kernel_settings

        concept, recipe = plan.concept, plan.recipe
        past = self._draw_again(plan)
        after, source = plan.after_learning, history.FROM_FEATURES
        if after is None:
            after, source = (self.extractor.images(past), history.REDRAWN) if past else (None, "")
        if not source:
            self.watch.warn(
                f"{concept.name}: neither its features nor the generation that learned it are there, so forgetting "
                "cannot be measured"
            )
        sets = Sets(self.extractor.images(self.heldout[concept.name]), after, self.extractor.images(pictures))
        scale = scale_of(sets.heldout, class_pictures)
        plain = recipe.plain(concept.class_word)
        kept = Kept(
            run=run,
            generation=self.head.seq,
            time=now(),
            last=concept is self.head.concepts[-1],
            drawn=len(sets.current),
            heldout=len(sets.heldout),
            prompt=recipe.prompt,
            steps=recipe.steps,
            guidance=recipe.guidance,
            after_learning=source,
            extractor={"name": self.extractor.name, "sha256": self.extractor.sha256},
            kernel=kernel_settings(self.extractor.width),
            figures=figures(sets, self.extractor.texts([plain]) if plain else None, scale),
            rbf=cross_check(sets),
        )
        kept = replace(kept, verdict=self._judge(plan, kept, sets, scale, pictures))
        shown = Shown()
        if self.request.report:
            shown = Shown(*(tuple(part[:SHOWN]) for part in (self.heldout[concept.name], past, pictures)))
        self.watch.advance(1)
        return Measured(concept.uid, concept.name, concept.class_word, kept, self._parameters(plan), shown)

    def _judge(self, plan: _Plan, kept: Kept, sets: Sets, scale: Scale, pictures: list[Image.Image]) -> dict[str, Any]:
        """Come to a verdict, with what earlier evaluations say of when it began to drift."""
        from conceptctl.metrics.closeness import like

        sees = self.judges[plan.concept.name]
        evidence = verdict.Evidence(
            drawn=kept.drawn,
            heldout=kept.heldout,
            like=like(scale.places(sets.current)) if scale.tells_apart else None,
            like_learned=None
            if sets.after_learning is None or not scale.tells_apart
            else like(scale.places(sets.after_learning)),
            kept=is_kept(kept),
            diversity=kept.figures["diversity"],
            seen=sees(self.heldout[plan.concept.name], pictures) if sees else None,
        )
        if evidence.fallen:
            since, exact = verdict.began(self._earlier_of(plan.concept, kept), *self._places(plan.concept))
            evidence = replace(evidence, since=since, exact=exact)
        return verdict.judge(evidence).as_dict()

    def _places(self, concept: Concept) -> tuple[int, int]:
        """How many concepts there were when one had been learned, and how many there are."""
        return self.head.concepts.index(concept) + 1, len(self.head.concepts)

    def _earlier_of(self, concept: Concept, kept: Kept) -> list[tuple[int, Kept]]:
        """Earlier evaluations of a concept that can be compared, each with how many concepts there were."""
        found = []
        for uid, each in self.earlier:
            if uid == concept.uid and not history.differences(each, kept):
                try:
                    found.append((len(self.store.generation(each.generation).concepts), each))
                except (NotFound, StoreDamaged):
                    # Its manifest is lost, or gone with a compaction.
                    continue
        return found

    def _parameters(self, plan: _Plan) -> Parameters:
        (step,) = (each for each in self.steps if each.uid == plan.concept.uid)
        return Parameters(
            self._share(plan.record, "trained_in_unet"),
            self._share(plan.record, "trained_parameters"),
            100 * step.drift.changed / self.parameters if step.drift else None,
        )

    def _share(self, record: Record, name: str) -> float | None:
        value = record.settings.get(name)
        return 100 * value / self.parameters if type(value) is int and value >= 0 else None


@dataclass(frozen=True)
class _Drawn:
    """What a set of pictures is drawn from."""

    prompt: str
    steps: int
    guidance: float


@dataclass(frozen=True)
class _Plan:
    """What is drawn of one concept."""

    concept: Concept
    record: Record
    recipe: Recipe
    count: int
    after_learning: Tensor | None
    """Features that were kept, as many as pictures are drawn; None when they are to be made again."""
    again: int
    """Pictures to draw with the generation that brought it."""

    @property
    def without_concept(self) -> _Drawn:
        """What is drawn with the base alone, for comparison."""
        prompt = self.recipe.plain(self.concept.class_word or ANYTHING)
        return _Drawn(prompt, self.recipe.steps, self.recipe.guidance)
