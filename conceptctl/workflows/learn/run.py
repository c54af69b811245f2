"""`learn`: pictures of one concept, taught to a store's model as one generation.

One stage after the other, each a function of what those before it returned: request -> pictures and plan -> model ->
dataset -> task -> training -> reference samples -> record -> generation.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conceptctl.learning.launch import is_main_process
from conceptctl.presets import preset_of
from conceptctl.store.concept import Record
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store, Writer
from conceptctl.workflows.learn import auxiliary, checkpoint
from conceptctl.workflows.learn.checkpoint import Resumed
from conceptctl.workflows.learn.commit import commit, record_of
from conceptctl.workflows.learn.estimate import estimate
from conceptctl.workflows.learn.moved import moved
from conceptctl.workflows.learn.plan import Plan, check_earlier
from conceptctl.workflows.learn.replace import check_name, without_the_old_one
from conceptctl.workflows.learn.request import Request, Watch, check_facts, chosen_preset, make_method
from conceptctl.workflows.learn.samples import check_prompts

if TYPE_CHECKING:
    from conceptctl.learning.method import Task
    from conceptctl.learning.weights import TokenRows
    from conceptctl.workflows.learn.dataset import Dataset
    from conceptctl.workflows.learn.model import Model
    from conceptctl.workflows.learn.prepared import Prepared

MORE_MEMORY = "the same command with --low-vram: what was learned is saved, and goes on"
LEAST_MEMORY = "close what else uses the GPU (nvidia-smi), a smaller --rank, --method ti++, or --device cpu"


@dataclass(frozen=True)
class LearnedConcept:
    """What a run of `learn` committed."""

    plan: Plan
    generation: Generation
    record: Record
    seconds: float
    """What this run took."""
    replaced: bool = False
    """Whether it took the place of one of its name."""
    resumed: bool = False
    """Whether an earlier run had begun to train it."""


def learn(
    store: Store, request: Request, *, device: str = "auto", wait: bool = False, watch: Watch | None = None
) -> LearnedConcept | None:
    """Learn one concept on top of everything that is committed, folded or not, and commit it.

    An interrupted run is taken up where its last slot is when the same request comes again. Nothing of the pictures
    reaches the disk. With several processes (`accelerate launch`) each does its part, and the main one commits.

    Args:
        store: The store.
        request: What to learn.
        device: "auto", "cpu" or "cuda".
        wait: Wait while somebody else changes the store.
        watch: Who is told.

    Returns:
        What was committed; None in a process beside the main one.

    Raises:
        UsageError: A name or a number that cannot be meant.
        PicturesRefused: The folder holds something that must not be learned from.
        AlreadyExists: There is such a concept, or the base has such a token.
        NotFound: There is no such concept, and one was to be replaced.
        Busy: Somebody else changes the store.
        DeviceFailed: The loss became no number, or memory ran out; the store is unchanged.
    """
    began = time.monotonic()
    watch = watch or Watch()
    check_facts(request)
    # Methods bring torch, and whoever has to wait for another is told before that.
    with _writing(store, wait=wait) as writer:
        head = writer.head if writer else store.head()
        preset = chosen_preset(request, preset_of(head.base))
        method = make_method(request, preset)
        check_prompts(request, [each.name for each in head.concepts])
        if writer:
            check_name(request, head, store)
        check_earlier(store, head, request, method)
        from conceptctl.diffusion.models import enough_memory
        from conceptctl.workflows.learn.prepared import prepare

        with enough_memory(LEAST_MEMORY if request.low_vram else MORE_MEMORY):
            prepared = prepare(store, head, request, preset, method, device, watch)
            return _learn(prepared, writer, began)


@contextmanager
def _writing(store: Store, *, wait: bool) -> Iterator[Writer | None]:
    """Hold the right to write in the main process; the others look on, once they have met it."""
    if is_main_process():
        with store.writing("learn", wait=wait) as writer:
            yield writer
    else:
        with store.reading():
            yield None


def _learn(prepared: Prepared, writer: Writer | None, began: float) -> LearnedConcept | None:
    """Go through the stages."""
    from conceptctl.workflows.learn.model import load_model, put_in
    from conceptctl.workflows.learn.reference import draw_reference
    from conceptctl.workflows.learn.training import train_concept

    if prepared.request.replace and writer:
        prepared = without_the_old_one(prepared, writer)
    resumed = resume(prepared, writer)
    if writer:
        prepared.watch.expected(estimate(prepared.store, prepared.to_do))
    model = load_model(prepared, writer, resumed)
    start = model.backbone.token_start(prepared.request.class_word)
    token_id = model.backbone.add_token(prepared.request.name, start)
    dataset = dataset_of(prepared, model)
    prepared = dataclasses.replace(
        prepared, plan=dataclasses.replace(prepared.plan, prompts=dataset.prompts, notes=dataset.notes)
    )
    prepared.watch.stage("preparing the training", 0)
    task = task_of(prepared, model, token_id, start)
    trained = train_concept(prepared, model, token_id, task, dataset, resumed)
    put_in(model, token_id, trained.learned)
    reference = draw_reference(prepared, model.backbone, model.coherence)
    if writer is None:
        return None
    record = record_of(prepared, model, trained, moved(model, trained, start), reference)
    made = commit(prepared, writer, model.attachments, record, trained, reference)
    seconds, went_on = time.monotonic() - began, bool(resumed.state and resumed.state.step)
    return LearnedConcept(prepared.plan, made, record, seconds, prepared.request.replace, went_on)


def resume(prepared: Prepared, writer: Writer | None) -> Resumed:
    """Find the interrupted run of this request, or begin a new one."""
    describer = prepared.extractor.sha256 if prepared.described and prepared.extractor else ""
    settings = checkpoint.settings_of(prepared.request, prepared.method, prepared.plan, prepared.head, describer)
    layout = prepared.store.layout
    if writer is None:
        prepared.accelerator.wait_for_everyone()
        return checkpoint.look_on(layout, settings, prepared.checked)
    for said in checkpoint.begins_anew(checkpoint.interrupted(layout, settings, prepared.checked)):
        prepared.watch.warn(said)
    plan = prepared.plan
    drawn_by = auxiliary.about(prepared.head, plan.class_word, plan.auxiliary, plan.auxiliary_side)
    resumed = checkpoint.take_up(layout, settings, prepared.checked, drawn_by)
    if resumed.state and resumed.state.step:
        prepared.watch.stage(f"going on with an interrupted run, from step {resumed.state.step}", 0)
    prepared.accelerator.wait_for_everyone()
    return resumed


def dataset_of(prepared: Prepared, model: Model) -> Dataset:
    """What is learned from."""
    from conceptctl.workflows.learn.dataset import make_dataset
    from conceptctl.workflows.learn.images import sizes_of

    return make_dataset(
        model.backbone,
        prepared.request,
        prepared.method,
        prepared.checked,
        describer=prepared.extractor if prepared.described else None,
        auxiliary=model.auxiliary,
        auxiliary_side=prepared.plan.auxiliary_side or sizes_of(prepared.store, prepared.head).side,
        watch=prepared.watch,
    )


def task_of(prepared: Prepared, model: Model, token_id: int, start: TokenRows) -> Task:
    """What is learned, as the method sees it."""
    from conceptctl.workflows.learn.task import change_so_far, earlier_tasks, make_task, way_to_base

    store, head, backbone = prepared.store, prepared.head, model.backbone
    return make_task(
        backbone,
        prepared.method,
        token_ids=[token_id],
        token_start=start,
        prompt=prepared.prompt,
        class_word=prepared.request.class_word,
        earlier=earlier_tasks(store, head, model.weights, prepared.device),
        names=[each.name for each in head.concepts],
        change=change_so_far(store, head, model.weights) if prepared.method.config.needs_change else None,
        to_base=way_to_base(store, head, model.weights, prepared.device),
        seed=prepared.request.train.seed,
    )
