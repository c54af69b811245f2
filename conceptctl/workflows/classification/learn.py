"""`learn` where classes are told apart: a folder for each class, learned as one task and one generation."""

from __future__ import annotations

import dataclasses
import re
import time
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import conceptctl
from conceptctl.errors import AlreadyExists, PicturesRefused, UsageError
from conceptctl.images import class_folders
from conceptctl.methods import find_classifier
from conceptctl.presets import preset_of
from conceptctl.store import concept, jobs, weights
from conceptctl.store.concept import Record
from conceptctl.store.manifest import Generation, now
from conceptctl.store.store import Store, Writer
from conceptctl.workflows.adding import add_concept, check_name_free
from conceptctl.workflows.classification.model import learner, records_of
from conceptctl.workflows.classification.pictures import USUAL, Rules, folders_of, read_classes
from conceptctl.workflows.classification.settings import check_goes_on, settings_of
from conceptctl.workflows.learn.checkpoint import Resumed, from_slot
from conceptctl.workflows.learn.request import MOST_SEEDS

if TYPE_CHECKING:
    from conceptctl.learning.method import Config, Method
    from conceptctl.workflows.classification.learner import Learner, Taught
    from conceptctl.workflows.classification.pictures import Labelled

FEWEST_CLASSES = 2
"""In a task: in training its classes are told apart from each other."""
FEWEST_PICTURES = 2
"""Of a class: one says nothing of how far its pictures are from each other."""
MOST_EPOCHS = 10**5


@dataclass(frozen=True)
class Request:
    """What to learn, and how. `None` leaves the choice to the base's preset."""

    folder: Path
    """With a folder for each class in it, or in `train` in it."""
    name: str | None = None
    """The task's; by default the folder's."""
    method: str | None = None
    epochs: int | None = None
    """How often each picture is drawn, in the mean."""
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    """More of the method's settings, by name."""
    rules: Rules = USUAL
    license: str = ""
    consent: str = ""


@dataclass(frozen=True)
class Plan:
    """What a run would do."""

    name: str
    method: str
    classes: Mapping[str, int]
    """How many pictures are learned of each."""
    epochs: int
    steps: int
    batch_size: int
    """Pictures in a step."""
    preset: str
    config: Mapping[str, Any]
    """Every setting of the method."""
    differs: Mapping[str, Any]
    """Those that are not the preset's."""
    device: str
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    resumes: int | None = None
    """The step from which an interrupted run would go on; None where there is none to go on with."""


@dataclass(frozen=True)
class LearnedTask:
    """What a run committed."""

    plan: Plan
    generation: Generation
    record: Record
    seconds: float


@dataclass(frozen=True)
class Watch:
    """Who is told what meanwhile."""

    stage: Callable[[str, int], None] = lambda what, total: None
    """A stage begins, with so many units of work; 0 where that is not known."""
    done: Callable[[int], None] = lambda done: None
    """So many of them are done."""


SILENT = Watch()


@dataclass(frozen=True)
class _Prepared:
    """All that is decided before anything is trained."""

    request: Request
    head: Generation
    records: tuple[Record, ...]
    method: type[Method]
    config: Config
    pictures: Labelled
    plan: Plan


def plan(store: Store, request: Request, *, device: str = "auto", watch: Watch = SILENT) -> Plan:
    """Check everything that can be checked without training, and change nothing.

    Raises:
        As `learn`.
    """
    prepared = _prepare(store, store.head(), request, device, watch)
    for job in jobs.found(store.layout):
        slot = job.load() if job.settings == _settings(prepared) else None
        if slot and slot.step and slot.state.get("pictures") == _digests(job, prepared.pictures):
            return dataclasses.replace(prepared.plan, resumes=slot.step)
    return prepared.plan


def learn(
    store: Store, request: Request, *, device: str = "auto", wait: bool = False, watch: Watch = SILENT
) -> LearnedTask:
    """Learn the classes of a folder as one task, on top of everything that is committed, and commit it.

    An interrupted run is taken up where it was saved last when the same request comes again. Of the pictures nothing
    reaches the disk.

    Args:
        store: The store.
        request: What to learn.
        device: "auto", "cpu" or "cuda".
        wait: Wait while somebody else changes the store.
        watch: Who is told.

    Raises:
        UsageError: The store draws, or a name, a number or a method that cannot be meant.
        NotFound: There is no such method or setting.
        PicturesRefused: The folder holds something that must not be learned from, or too little.
        AlreadyExists: The task's name is taken, or a class is learned already.
        Busy: Somebody else changes the store.
        DeviceFailed: The loss became no number, or memory ran out; the store is unchanged.
    """
    from conceptctl.diffusion.models import enough_memory

    began = time.monotonic()
    with store.writing("learn", wait=wait) as writer:
        prepared = _prepare(store, writer.head, request, device, watch)
        with enough_memory("a smaller --batch-size, or --device cpu"):
            resumed = _resume(store, prepared)
            of = learner(
                store, prepared.head, prepared.records, prepared.method, prepared.config, device,
                epochs=prepared.plan.epochs, seed=request.seed,
            )  # fmt: skip
            taught = _train(of, prepared, resumed, watch)
        made, record = _commit(writer, prepared, of, taught)
        return LearnedTask(prepared.plan, made, record, time.monotonic() - began)


def _train(of: Learner, prepared: _Prepared, resumed: Resumed, watch: Watch) -> Taught:
    """Learn the task, from where an earlier run was."""
    watch.stage("learning", prepared.plan.steps)
    watch.done(resumed.state.step if resumed.state else 0)
    return of.learn(
        list(prepared.plan.classes),
        of.backbone.encode(prepared.pictures.pixels),
        prepared.pictures.labels,
        lambda done, steps: watch.done(done),
        state=resumed.state,
        save=resumed.save,
    )


def _prepare(store: Store, head: Generation, request: Request, device: str, watch: Watch) -> _Prepared:
    """Check a request, its pictures last."""
    from conceptctl.diffusion.models import choose_device
    from conceptctl.workflows.classification.classify import picture_side

    records = records_of(store, head)
    name = name_of(request.folder) if request.name is None else request.name
    check_name_free(name, head, store.layout)
    if not 0 <= request.seed < MOST_SEEDS:
        raise UsageError("a seed is a number from 0 to 2^63")
    if request.epochs is not None and not 1 <= request.epochs <= MOST_EPOCHS:
        raise UsageError(f"1 to {MOST_EPOCHS} epochs are learned, not {request.epochs}", hint="--epochs 50")
    preset = preset_of(head.base)
    method = find_classifier(request.method or preset.learn.method)
    config = settings_of(method, preset, request.settings)
    check_goes_on(method, config, records)
    found = choose_device(device)
    folders = folders_of(request.folder, class_folders.TRAIN, follow=request.rules.follow_symlinks)
    _check_classes(request.folder, list(folders), records)

    watch.stage("looking at the pictures of classes", len(folders))
    pictures = read_classes(
        folders, picture_side(store, head), request.rules, fewest=FEWEST_PICTURES,
        progress=lambda done, total: watch.done(done),
    )  # fmt: skip
    from conceptctl.workflows.classification.learner import steps_of

    epochs = request.epochs or preset.learn.epochs
    steps, batch = steps_of(config, epochs, len(pictures.labels))
    values = {key: value for key, value in dataclasses.asdict(config).items() if key != "steps"}
    usual = {**dataclasses.asdict(method.configuration()), **preset.settings(method.name)}
    differs = {key: value for key, value in values.items() if value != usual[key]}
    planned = Plan(
        name=name,
        method=method.name,
        classes=pictures.counts,
        epochs=epochs,
        steps=steps,
        batch_size=batch,
        preset=preset.name,
        config=values,
        differs={**({"epochs": epochs} if epochs != preset.learn.epochs else {}), **differs},
        device=str(found),
        skipped=pictures.skipped,
        notes=pictures.notes,
    )
    return _Prepared(request, head, records, method, config, pictures, planned)


def name_of(folder: Path) -> str:
    """What a task is called by default: as its folder is, in letters that a name may have.

    Raises:
        UsageError: Nothing is left of it.
    """
    plain = unicodedata.normalize("NFKD", folder.absolute().name).encode("ascii", "ignore").decode().lower()
    made = re.sub(r"[^a-z0-9_]+", "-", plain).strip("-_")[:64]
    if not made:
        raise UsageError(f"no task can be called as {folder} is", hint="--token NAME")
    return made


def _check_classes(folder: Path, names: list[str], records: tuple[Record, ...]) -> None:
    """Refuse classes that are there already, and too few."""
    known = {each: record.name for record in records for each in record.classes}
    if there := [name for name in names if name in known]:
        raise AlreadyExists(
            f"the class {there[0]!r} was learned with the task {known[there[0]]!r}"
            + (f", and so were {len(there) - 1} more" if len(there) > 1 else ""),
            hint="a class is learned once: leave its folder out, or conceptctl undo",
        )
    if len(names) < FEWEST_CLASSES:
        raise PicturesRefused(
            f"{folder} holds one class, {names[0]}: a task has at least {FEWEST_CLASSES}, which are told apart",
            hint=class_folders.LAYOUT,
        )


def _settings(prepared: _Prepared) -> dict[str, Any]:
    """Everything that makes a run the same work, but its pictures."""
    from conceptctl.learning.checkpoint import STATE_FORMAT

    head = prepared.head
    return {
        "name": prepared.plan.name,
        "method": prepared.plan.method,
        "config": dict(prepared.plan.config),
        "epochs": prepared.plan.epochs,
        "seed": prepared.request.seed,
        "classes": list(prepared.plan.classes),
        "program": conceptctl.__version__,
        "state_format": STATE_FORMAT,
        "after": [each.uid for each in head.concepts],
        "consolidated": head.consolidated.sha256 if head.consolidated else "",
    }


def _digests(job: jobs.Job, pictures: Labelled) -> list[str]:
    return [
        job.digest(pixels.tobytes() + label.encode())
        for pixels, label in zip(pictures.pixels, pictures.labels, strict=True)
    ]


def _resume(store: Store, prepared: _Prepared) -> Resumed:
    """Find the interrupted run of the same request, or begin a new one."""
    job = jobs.start(store.layout, _settings(prepared))
    slot, digests = job.load(), _digests(job, prepared.pictures)
    if slot and slot.state.get("pictures") != digests:
        # The other pictures' run cannot go on beside this one: it has the same settings.
        job.finish()
        job, slot = jobs.begin(store.layout, job.settings), None
        digests = _digests(job, prepared.pictures)
    return Resumed(job, {"pictures": digests}, from_slot(slot) if slot else None)


def _commit(writer: Writer, prepared: _Prepared, of: Learner, taught: Taught) -> tuple[Generation, Record]:
    """Write the task's file and the generation that has it."""
    from conceptctl.learning.signals import deferred_signals
    from conceptctl.workflows.learn.stored import as_stored

    learned, factors = as_stored(taught.learned, draws=False)
    record = _record(prepared, of, taught)
    (rows,) = learned.tokens.values()
    tensors = weights.concept_tensors(
        {path: factors.get(path) or weights.Delta.of(delta.numpy()) for path, delta in learned.deltas.items()},
        rows.numpy(),
        state={name: value.numpy() for name, value in learned.state.items()},
    )
    ref = writer.add_tensors(tensors, record.metadata())
    with deferred_signals():
        made = add_concept(writer, "learn", record, ref)
        # What was begun on the tasks before this one cannot go on from here.
        for job in jobs.found(writer.layout):
            job.finish()
    return made, record


def _record(prepared: _Prepared, of: Learner, taught: Taught) -> Record:
    """Say where a task came from."""
    request, planned, head = prepared.request, prepared.plan, prepared.head
    return Record(
        uid=concept.new_uid(),
        name=planned.name,
        class_word="",
        method=planned.method,
        learned=now(),
        program=conceptctl.__version__,
        base=head.base.sha256,
        after=head.seq,
        seed=request.seed,
        steps=taught.steps,
        photos=len(prepared.pictures.labels),
        settings={
            **planned.config,
            "epochs": planned.epochs,
            "preset": planned.preset,
            "differs": list(planned.differs),
            "trained_parameters": taught.trained,
            "trained_on": of.backbone.device.type,
        },
        loss_curve=tuple(round(value, 6) for value in taught.curve),
        license=request.license,
        consent=request.consent,
        classes=tuple(planned.classes),
    )
