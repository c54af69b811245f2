"""The training itself: a method's phases run over a dataset, and what they leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conceptctl.errors import DeviceFailed
from conceptctl.learning.loop import Listener, denoising_loss, train
from conceptctl.learning.method import Learned
from conceptctl.learning.weights import Deltas
from conceptctl.presets import preset_of
from conceptctl.workflows.drawing import draw_set
from conceptctl.workflows.learn.checkpoint import Resumed
from conceptctl.workflows.learn.dataset import Dataset
from conceptctl.workflows.learn.model import Model
from conceptctl.workflows.learn.prepared import Prepared

if TYPE_CHECKING:
    from torch import Tensor

    from conceptctl.learning.backbone import Backbone
    from conceptctl.learning.checkpoint import TrainingState
    from conceptctl.learning.method import Task, Trainable

PREVIEW_PICTURES = 4
LOSS_BATCHES = 4
"""Batches on which a mask's loss with noise is compared with its loss without."""


@dataclass(frozen=True)
class Trained:
    """What a training left."""

    learned: Learned
    trainable: Trainable
    state: TrainingState
    measures: dict[str, float]


def train_concept(
    prepared: Prepared, model: Model, token_id: int, task: Task, dataset: Dataset, resumed: Resumed
) -> Trained:
    """Run the method's phases, and measure what they left.

    Raises:
        DeviceFailed: What was learned is no number.
    """
    trainable = prepared.method.attach(task).to(prepared.device)
    watch = prepared.watch

    def phase(name: str, steps: int, done: int) -> None:
        watch.stage(name, steps)
        watch.advance(done)

    listener = Listener(
        phase=phase,
        report=watch.report,
        step=watch.step,
        save=resumed.save,
        preview=_previewer(prepared, model.backbone),
    )
    end = train(
        model.backbone,
        [token_id],
        prepared.method,
        task,
        trainable,
        dataset.examples,
        accelerator=prepared.accelerator,
        state=resumed.state,
        listener=listener,
    )
    learned = _on_cpu(prepared.method.finish(task, trainable))
    everything = (*learned.deltas.values(), *learned.tokens.values(), *learned.state.values())
    if not all(bool(each.isfinite().all()) for each in everything):
        raise DeviceFailed("what was learned holds nan or inf; nothing is kept", hint="a smaller --learning-rate")
    # Drawing reference samples can take longer than learning, and a signal may come meanwhile.
    resumed.save(end)
    return Trained(learned, trainable, end, _measures(prepared, model, token_id, trainable, dataset))


def _on_cpu(learned: Learned) -> Learned:
    def moved(tensor: Tensor) -> Tensor:
        return tensor.detach().float().cpu()

    return Learned(
        Deltas({paths: moved(stack) for paths, stack in learned.deltas.stacks.items()}),
        {table: moved(rows) for table, rows in learned.tokens.items()},
        {name: moved(value) for name, value in learned.state.items()},
        learned.contains,
    )


def _previewer(prepared: Prepared, backbone: Backbone) -> Callable[[int], None] | None:
    shown, sampling = prepared.watch.preview, preset_of(prepared.head.base).sampling
    if shown is None:
        return None

    def preview(step: int) -> None:
        # The prompt is encoded anew each time: the token has moved.
        sample = backbone.sampler(prepared.prompt, steps=sampling.steps, guidance=sampling.guidance)
        shown(step, list(draw_set(sample, PREVIEW_PICTURES)))

    return preview


def _measures(
    prepared: Prepared, model: Model, token_id: int, trainable: Trainable, dataset: Dataset
) -> dict[str, float]:
    """Measure the masks, and compare the loss with their noise and without."""
    measures = trainable.adapter.measures() if trainable.adapter else {}
    if not measures:
        # Nothing is random in what is learned.
        return {}
    found = {name: value.item() for name, value in measures.items()}
    for name, sampled in (("loss_sampled", True), ("loss_folded", False)):
        found[name] = denoising_loss(
            model.backbone,
            [token_id],
            trainable,
            dataset.examples,
            prepared.method.config.schedule(prepared.request.train.seed),
            accelerator=prepared.accelerator,
            batches=LOSS_BATCHES,
            sampled=sampled,
        )
    return found
