"""A training's state as a slot of a job, and back: how an interrupted run is found again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

import conceptctl
from conceptctl.store import jobs
from conceptctl.store.jobs import Job, Slot
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import BlobRef, Generation
from conceptctl.store.weights import array_tensor

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from conceptctl.images.gate import Checked
    from conceptctl.learning.checkpoint import TrainingState
    from conceptctl.learning.method import Method
    from conceptctl.workflows.learn.plan import Plan
    from conceptctl.workflows.learn.request import Request


@dataclass
class Resumed:
    """A run's job, and what an earlier run of the same request had reached."""

    job: Job | None
    """None in a process that saves nothing."""
    kept: dict[str, Any]
    """What else a run that goes on needs to know; saved with every state."""
    state: TrainingState | None = None
    begun: TorchTensor | None = None
    """Latents of the auxiliary pictures that were drawn, where there were to be more."""
    attached: tuple[BlobRef, ...] = field(default_factory=tuple)
    """Auxiliary latents that were written already."""

    def save(self, state: TrainingState) -> None:
        """Save how far a training is."""
        if self.job is None:
            return
        tensors = {name: array_tensor(value.float().numpy()) for name, value in state.tensors.items()}
        self.job.save(state.step, tensors, {"curve": state.curve, "counted": state.counted, **self.kept})

    def save_drawn(self, drawn: TorchTensor, count: int) -> None:
        """Save which of `count` auxiliary pictures are drawn: as a training that has steps to go until its first."""
        from conceptctl.learning.checkpoint import TrainingState
        from conceptctl.learning.signals import deferred_signals

        with deferred_signals():
            self.save(TrainingState(len(drawn) - count, {"latents": drawn}))

    def save_auxiliary(self, ref: BlobRef) -> None:
        """Remember that all auxiliary pictures are drawn: that may have taken longer than the training will."""
        self.kept["auxiliary"] = {"sha256": ref.sha256, "size": ref.size}
        if self.job and self.state is None:
            self.job.save(0, {}, {"curve": [], "counted": 0, **self.kept})


def settings_of(request: Request, method: Method, plan: Plan, head: Generation, describer: str) -> dict[str, Any]:
    """Everything that makes a run the same work.

    Args:
        request: What is learned.
        method: With what.
        plan: How.
        head: On top of what; folding it meanwhile, or evaluating it, changes nothing for this run.
        describer: The digest of what describes pictures; another one would see other things in the same ones.
    """
    from conceptctl.learning.checkpoint import STATE_FORMAT

    settings = {
        "name": request.name,
        "class": request.class_word,
        "method": method.name,
        "config": dataclasses.asdict(method.config),
        "auxiliary": plan.auxiliary,
        "seed": request.train.seed,
        "flip": request.flip,
        "precision": plan.precision,
        "program": conceptctl.__version__,
        "state_format": STATE_FORMAT,
        "after": [each.uid for each in head.concepts],
        **({"consolidated": head.consolidated.sha256} if head.consolidated else {}),
    }
    return {**settings, "described_by": describer} if describer else settings


def begun_otherwise(layout: Layout, settings: Mapping[str, Any]) -> bool:
    """Whether there is an interrupted run about the same concept, but not of this request by this program."""
    found = [job.settings for job in jobs.found(layout)]
    return settings not in found and any(each.get("name") == settings["name"] for each in found)


def take_up(layout: Layout, settings: Mapping[str, Any], checked: Checked) -> Resumed:
    """Find the interrupted run of a request, or begin a new one; for the process that writes the store."""
    job = jobs.start(layout, settings)
    pictures = [job.digest(picture.pixels + (picture.caption or "").encode()) for picture in checked.pictures]
    slot = job.load()
    if slot is not None and slot.state.get("pictures") != pictures:
        # The same command over other pictures is another run.
        job.finish()
        job, slot = jobs.start(layout, settings), None
        pictures = [job.digest(picture.pixels + (picture.caption or "").encode()) for picture in checked.pictures]
    return _resumed(job, slot, {"pictures": pictures})


def look_on(layout: Layout, settings: Mapping[str, Any]) -> Resumed:
    """Find the same in a process beside the one that writes the store, after it has."""
    job = next((each for each in jobs.found(layout) if each.settings == settings), None)
    resumed = _resumed(job, job.load() if job else None, {})
    resumed.job = None
    return resumed


def _resumed(job: Job | None, slot: Slot | None, kept: dict[str, Any]) -> Resumed:
    resumed = Resumed(job, kept)
    if slot is None:
        return resumed
    state = from_slot(slot)
    if slot.step < 0:
        resumed.begun = state.tensors["latents"]
        return resumed
    resumed.state = state
    if found := slot.state.get("auxiliary"):
        resumed.attached = (BlobRef(**found),)
    return resumed


def from_slot(slot: Slot) -> TrainingState:
    """Return the state that a slot holds."""
    import torch

    from conceptctl.learning.checkpoint import TrainingState

    tensors = {
        name: torch.from_numpy(np.frombuffer(tensor.data, dtype="<f4").reshape(tensor.shape).copy())
        for name, tensor in slot.tensors.items()
    }
    return TrainingState(slot.step, tensors, slot.state["counted"], list(slot.state["curve"]))
