"""A training's state as a slot of a job, and back: how an interrupted run is found again."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

import conceptctl
from conceptctl.store import jobs
from conceptctl.store.jobs import Job, Slot
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import BlobRef, Generation
from conceptctl.store.weights import array_tensor
from conceptctl.workflows.learn.coherence import KEPT

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from conceptctl.images.gate import Checked
    from conceptctl.learning.checkpoint import TrainingState
    from conceptctl.learning.method import Method
    from conceptctl.workflows.learn.plan import Plan
    from conceptctl.workflows.learn.request import Request

_DESCRIBER = "described_by"
_NAMES = "settings_that_there_are"
_FIXED = {
    "program": "by another version of this program",
    "state_format": "by another version of this program",
    "after": "on other concepts",
    "consolidated": "on other concepts",
    _NAMES: "with settings that its method does not have, or without some that it has",
    _DESCRIBER: "with other descriptions of its pictures",
}
"""Settings that no option gives back."""
_ENDING = {"steps", "stopping"}
"""Settings that `--steps` says together."""
_OPTIONS = {
    "class": "--class",
    "method": "--method",
    "auxiliary": "--aux",
    "seed": "--seed",
    "resolution": "--resolution",
    "precision": "--mixed-precision",
    "batch_size": "--batch-size",
    "learning_rate": "--learning-rate",
    "scheduler": "--lr-scheduler",
    "rank": "--rank",
    "accumulation": "--gradient-accumulation-steps",
}


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
        stopping = {} if state.stopping is None else {"stopping": state.stopping}
        self.job.save(state.step, tensors, {"curve": state.curve, "counted": state.counted, **stopping, **self.kept})

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


def settings_of(
    request: Request, method: Method, plan: Plan, head: Generation, describer: str | None
) -> dict[str, Any]:
    """Everything that makes a run the same work.

    Args:
        request: What is learned.
        method: With what.
        plan: How.
        head: On top of what; folding it meanwhile, or evaluating it, changes nothing for this run.
        describer: The digest of what describes pictures; another one would see other things in the same ones. "" for
            nothing, None where it is not known.
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
        **({"resolution": plan.resolution} if "resolution" in plan.differs else {}),
        "precision": plan.precision,
        "program": conceptctl.__version__,
        "state_format": STATE_FORMAT,
        "after": [each.uid for each in head.concepts],
        **({"consolidated": head.consolidated.sha256} if head.consolidated else {}),
    }
    return {**settings, _DESCRIBER: describer} if describer != "" else settings


@dataclass(frozen=True)
class Interrupted:
    """A run about a concept that was interrupted, beside what is asked for now."""

    job: Job
    slot: Slot | None
    differs: Mapping[str, tuple[Any, Any]]
    """Settings that are others: what they were, and what they are now."""
    other_pictures: bool
    """It is about other pictures, or other captions."""

    @property
    def step(self) -> int:
        """How far its training was."""
        return max(0, self.slot.step) if self.slot else 0

    @property
    def same(self) -> bool:
        """Whether it is what is asked for now, and goes on."""
        return not self.differs and not self.other_pictures


def interrupted(layout: Layout, settings: Mapping[str, Any], checked: Checked) -> list[Interrupted]:
    """Find the interrupted runs about a request's concept, the furthest first."""
    found = []
    for job in jobs.found(layout):
        if job.settings.get("name") == settings["name"]:
            slot = job.load()
            # One that had saved nothing is as good as none.
            others = slot is not None and slot.state.get("pictures") != _digests(job, checked)
            found.append(Interrupted(job, slot, _differing(job.settings, settings), others))
    return sorted(found, key=lambda run: run.step, reverse=True)


def reached(runs: Sequence[Interrupted]) -> int:
    """The step from which a run goes on; 0 from its beginning."""
    return next((run.step for run in runs if run.same), 0)


def begins_anew(runs: Sequence[Interrupted]) -> list[str]:
    """Say of each interrupted run that a new one does not go on with what sets them apart, and how to go on with it."""
    apart = [run for run in runs if run.differs or (run.other_pictures and run.step)]
    # Of those that had not begun to train nothing is lost.
    return [_apart(run) for run in [run for run in apart if run.step] or apart[:1]]


def _apart(run: Interrupted) -> str:
    name = f"V*{run.job.settings['name']}"
    about = [_said(key, *values) for key, values in run.differs.items() if key not in _FIXED]
    # Other pictures and settings are described otherwise of themselves.
    differs = set(run.differs) - ({_DESCRIBER} if about or run.other_pictures else set())
    fixed = list(dict.fromkeys(text for key, text in _FIXED.items() if key in differs))
    others = ["with other pictures or captions"] if run.other_pictures else []
    begun = [*(["with other settings (" + "; ".join(about) + ")"] if about else []), *others, *fixed]
    said = f"an interrupted run of {name}, at step {run.step}, was begun {', '.join(begun)}: this one begins anew"
    if not run.step:
        return said
    if fixed:
        return f"{said}. That one cannot go on, and is removed when {name} is learned"
    again = [_option(key, then) for key, (then, _) in run.differs.items() if key not in {*_FIXED, *_ENDING}]
    if _ENDING & set(run.differs):
        again.append(_steps_option(run.job.settings["config"]))
    command = "the same command" + (f" with {' '.join(filter(None, again))}" if any(again) else "")
    pictures = ", over the pictures and captions as they were" if run.other_pictures else ""
    return f"{said}. That one is kept until {name} is learned; to go on with it: {command}{pictures}"


def _differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings, those of the method among them, that two runs have otherwise."""
    before, after = ({**each, **each.get("config", {})} for each in (then, now))
    if after.get(_DESCRIBER, "") is None:
        after[_DESCRIBER] = before.get(_DESCRIBER, "")
    if "stopping" in after:
        # Earlier versions knew one way.
        before.setdefault("stopping", "fixed")
    leave_out = {"config", "name"}
    if before.get("method") != after["method"]:
        # Each has its own.
        leave_out |= {*then.get("config", {}), *now["config"]}
    if before.get("auxiliary") != after["auxiliary"]:
        # It follows from that.
        leave_out.add("auxiliary_batch")
    keys = [key for key in {**before, **after} if key not in leave_out]
    found = {
        key: (before.get(key, ""), after.get(key, "")) for key in keys if before.get(key, "") != after.get(key, "")
    }
    if not found or _can_be_said(then):
        return found
    return {key: values for key, values in found.items() if key not in now["config"]} | {_NAMES: (False, True)}


def _can_be_said(then: Mapping[str, Any]) -> bool:
    """Whether a run's method has just the settings that it was begun with: an earlier version may have had others."""
    from conceptctl.methods import METHODS, find_method

    if (method := str(then.get("method"))) not in METHODS:
        return False
    names = {each.name for each in dataclasses.fields(find_method(method).configuration)}
    return {"stopping", *then.get("config", {})} == {"stopping", *names}


def _said(key: str, then: Any, now: Any) -> str:
    def shown(value: Any) -> Any:
        return "yes" if value is True else "no" if value is False or value == "" else value

    return f"{key.replace('_', ' ')} {shown(then)}, now {shown(now)}"


def _steps_option(config: Mapping[str, Any]) -> str:
    """What on the command line makes a training end as one did."""
    if config.get("stopping") == "auto":
        return f"--steps auto --max-train-steps {config['steps']}"
    return f"--steps {config['steps']}"


def _option(key: str, value: Any) -> str:
    """What on the command line makes a setting what it was."""
    if key == "flip":
        return "--flip" if value else "no --flip"
    if key in ("class", "resolution") and not value:
        return f"no --{key}"
    text = shlex.quote(str(value))
    return f"{_OPTIONS[key]} {text}" if key in _OPTIONS else f"--set {key}={text}"


def take_up(layout: Layout, settings: Mapping[str, Any], checked: Checked, drawn_by: Mapping[str, str]) -> Resumed:
    """Find the interrupted run of a request, or begin a new one; for the process that writes the store.

    Runs with other settings stay until the concept is learned. So do those over other pictures or captions, if they had
    trained at all. What any of them had drawn beside is taken over: it depends on none of that.

    Args:
        layout: The store.
        settings: Of the run.
        checked: Its pictures.
        drawn_by: What its auxiliary pictures depend on.
    """
    runs = interrupted(layout, settings, checked)
    job = _its_own(runs) or jobs.begin(layout, settings)
    kept = {"pictures": _digests(job, checked), "drawn_by": dict(drawn_by)}
    if job.load() is None and (drawn := _drawn_elsewhere(layout, drawn_by)):
        state = {"curve": [], "counted": 0, **kept}
        if found := drawn.state.get("auxiliary"):
            job.save(0, {}, {**state, "auxiliary": found})
        else:
            job.save(drawn.step, drawn.tensors, state)
    for run in runs:
        if run.other_pictures and not run.differs and not run.step:
            run.job.finish()
    return _resumed(job, job.load(), kept)


def look_on(layout: Layout, settings: Mapping[str, Any], checked: Checked) -> Resumed:
    """Find the same in a process beside the one that writes the store, after it has."""
    job = _its_own(interrupted(layout, settings, checked))
    resumed = _resumed(job, job.load() if job else None, {})
    resumed.job = None
    return resumed


def _its_own(runs: Sequence[Interrupted]) -> Job | None:
    same = [run for run in runs if run.same]
    return next((run.job for run in same if run.slot), same[0].job if same else None)


def _digests(job: Job, checked: Checked) -> list[str]:
    return [job.digest(picture.pixels + (picture.caption or "").encode()) for picture in checked.pictures]


def _drawn_elsewhere(layout: Layout, drawn_by: Mapping[str, str]) -> Slot | None:
    """The slot of any interrupted run that has the most of the same auxiliary pictures."""
    slots = [slot for job in jobs.found(layout) if (slot := job.load()) and slot.state.get("drawn_by") == drawn_by]
    some = [slot for slot in slots if slot.step < 0 or "auxiliary" in slot.state]
    return max(some, key=lambda slot: min(slot.step, 0), default=None)


def _resumed(job: Job | None, slot: Slot | None, kept: dict[str, Any]) -> Resumed:
    resumed = Resumed(job, kept)
    if slot is None:
        return resumed
    if KEPT in slot.state:
        kept[KEPT] = slot.state[KEPT]
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
    state = slot.state
    return TrainingState(slot.step, tensors, state["counted"], list(state["curve"]), state.get("stopping"))
