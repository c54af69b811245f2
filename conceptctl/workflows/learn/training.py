"""The training itself: a method's phases run over a dataset, and what they leave."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conceptctl.learning.loop import Listener, denoising_loss, train
from conceptctl.learning.method import Learned
from conceptctl.learning.stopping import StoppingRule
from conceptctl.learning.weights import Deltas
from conceptctl.parts.stack_and_mask import NO_MASK
from conceptctl.store.factors import Factors
from conceptctl.workflows.learn import samples
from conceptctl.workflows.learn.checkpoint import Resumed
from conceptctl.workflows.learn.cost import LOSS_BATCHES
from conceptctl.workflows.learn.dataset import Dataset
from conceptctl.workflows.learn.estimate import steps_a_picture as steps_a_picture_before
from conceptctl.workflows.learn.journal import Journal
from conceptctl.workflows.learn.memory import Fit, fitted
from conceptctl.workflows.learn.model import Model
from conceptctl.workflows.learn.pace import TRAINED_AS_DRAWN, Pace, in_whole_batches, steps_a_picture
from conceptctl.workflows.learn.prepared import Prepared
from conceptctl.workflows.learn.stored import as_stored

if TYPE_CHECKING:
    from conceptctl.learning.backbone import Backbone
    from conceptctl.learning.checkpoint import TrainingState
    from conceptctl.learning.method import Task, Trainable
    from conceptctl.learning.run import Report
    from conceptctl.learning.stopping import Outcome


@dataclass(frozen=True)
class Trained:
    """What a training left."""

    learned: Learned
    """Its deltas are those that the store makes of what it keeps, to the bit."""
    factors: Mapping[str, Factors]
    """Those of them that are kept as their factors, by path."""
    trainable: Trainable
    state: TrainingState
    outcome: Outcome | None
    """How it ended; None where that was by a number of steps."""
    measures: dict[str, float]
    seconds_a_step: float | None
    """While the concept was learned, here and now; None where too few steps were left to say."""


class _Told:
    """Tells of a training: to whoever watches, and in the run's folder."""

    def __init__(self, prepared: Prepared, backbone: Backbone, resumed: Resumed) -> None:
        self.pace = Pace()
        self._prepared, self._watch = prepared, prepared.watch
        self._phases = 0
        self._steps_after = _steps_after(prepared)
        self._journal = _journal(prepared, resumed)
        self._draw = samples.sampler(prepared, backbone, self._journal) if self._journal else None

    def listener(self, resumed: Resumed) -> Listener:
        """Who listens to the training."""
        return Listener(
            phase=self.phase,
            ending=self.ending,
            report=self.report,
            step=self.step,
            save=resumed.save,
            preview=self.draw if self._draw else None,
            preview_steps=samples.every(self._prepared.request, self._prepared.method.config.steps),
        )

    def phase(self, name: str, steps: int, done: int) -> None:
        """A phase begins, or goes on."""
        self._phases += 1
        self._watch.stage(name, steps)
        self._watch.advance(done)
        if self._journal:
            self._journal.phase(name, steps, done)

    def ending(self, steps: int) -> None:
        """A phase has begun to end."""
        self._watch.ending(steps)
        if self._journal:
            self._journal.ending(steps)

    def step(self, done: int) -> None:
        """A step is done."""
        self._watch.step(done)
        if self._phases == 1:
            self.pace.step(done)
        pace = self.pace.seconds_a_step
        # Steps of the phases that follow take other times.
        is_last = self._phases > len(self._prepared.method.config.later())
        if pace is not None and is_last:
            self._watch.ahead(pace * self._steps_after)

    def report(self, report: Report) -> None:
        """Losses and measures are there."""
        if self._journal:
            self._journal.report(report)
        self._watch.report(report)

    def draw(self, step: int) -> None:
        """It is time for samples."""
        began = time.monotonic()
        if self._draw:
            self._draw(step)
        self.pace.aside(time.monotonic() - began)

    def close(self) -> None:
        """Nothing more comes."""
        if self._journal:
            self._journal.close()


def _steps_after(prepared: Prepared) -> float:
    """About how many steps what comes after the training is worth: comparing the loss, and reference samples."""
    has_mask = getattr(prepared.method.config, "mask", NO_MASK) != NO_MASK
    compared = 2 * LOSS_BATCHES / TRAINED_AS_DRAWN if has_mask else 0.0
    pictures = in_whole_batches(prepared.to_do.reference_samples)
    measured = steps_a_picture_before(prepared.store, prepared.head, prepared.plan)
    return compared + pictures * (measured or steps_a_picture(prepared))


def _journal(prepared: Prepared, resumed: Resumed) -> Journal | None:
    """The folder of the run; None where nothing is to be written, and in processes that write nothing."""
    request = prepared.request
    if resumed.job is None or not (request.log_to or samples.are_wanted(request)):
        return None
    return Journal(
        request.log_to or request.output,
        request.name,
        resumed.job.folder.name,
        losses=request.log_to is not None,
        reached=resumed.state.step if resumed.state else None,
        warn=prepared.watch.warn,
    )


def train_concept(
    prepared: Prepared, model: Model, token_id: int, task: Task, dataset: Dataset, resumed: Resumed
) -> Trained:
    """Run the method's phases, and measure what they left.

    Raises:
        DeviceFailed: What was learned is no number.
    """
    trainable = prepared.method.attach(task).to(prepared.device)
    fit = fit_of(prepared, model.backbone, trainable, dataset)
    told = _Told(prepared, model.backbone, resumed)
    try:
        end = train(
            model.backbone,
            [token_id],
            prepared.method,
            task,
            trainable,
            dataset.examples,
            accelerator=prepared.accelerator,
            micro_batch=fit.micro_batch,
            state=resumed.state,
            listener=told.listener(resumed),
        )
    finally:
        told.close()
    learned, factors = as_stored(prepared.method.finish(task, trainable))
    # Drawing reference samples can take longer than learning, and a signal may come meanwhile.
    resumed.save(end)
    measures = _measures(prepared, model, token_id, trainable, dataset, fit, learned.deltas)
    outcome = StoppingRule.restored(end.stopping).outcome() if end.stopping else None
    return Trained(learned, factors, trainable, end, outcome, measures, told.pace.seconds_a_step)


def fit_of(prepared: Prepared, backbone: Backbone, trainable: Trainable, dataset: Dataset) -> Fit:
    """Fit a step into memory: as the request says, or by what a GPU has free."""
    request, config = prepared.request, prepared.method.config
    chosen = Fit(request.micro_batch, request.gradient_checkpointing)
    if request.low_vram:
        chosen = Fit(1, True)
    elif request.micro_batch is None and not request.gradient_checkpointing:
        backbone.freeze()
        backbone.set_aside()
        batch = -(-(config.batch_size + config.auxiliary_batch) // prepared.accelerator.num_processes)
        chosen = fitted(trainable, backbone, _largest(dataset), batch) or chosen
    if chosen.checkpointing:
        backbone.checkpoint_gradients()
    if chosen != Fit(None, False):
        prepared.watch.fitted(chosen)
    return chosen


def _largest(dataset: Dataset) -> tuple[int, ...]:
    """The shape of the largest of all latents, (C, H, W)."""
    return max((tuple(each.shape) for each in dataset.examples.latents), key=math.prod)


def _measures(
    prepared: Prepared,
    model: Model,
    token_id: int,
    trainable: Trainable,
    dataset: Dataset,
    fit: Fit,
    kept: Deltas,
) -> dict[str, float]:
    """Measure the masks, and compare the loss with their noise and without."""
    measures = trainable.adapter.measures() if trainable.adapter else {}
    if not measures:
        # Nothing is random in what is learned.
        return {}
    found = {name: value.item() for name, value in measures.items()}
    losses = (("loss_sampled", None), ("loss_folded", kept.to(prepared.device)))
    prepared.watch.stage("comparing the loss with masks", len(losses))
    for name, deltas in losses:
        found[name] = denoising_loss(
            model.backbone,
            [token_id],
            trainable,
            dataset.examples,
            prepared.method.config.schedule(prepared.request.train.seed),
            accelerator=prepared.accelerator,
            micro_batch=fit.micro_batch,
            batches=LOSS_BATCHES,
            deltas=deltas,
        )
        prepared.watch.advance(1)
    return found
