"""A training's state as a slot of a job, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptctl.store import jobs
from conceptctl.store.jobs import Job, Slot
from conceptctl.store.layout import Layout
from conceptctl.store.tensorfile import Tensor
from conceptctl.store.weights import array_tensor

if TYPE_CHECKING:
    from torch import Tensor as TorchTensor

    from conceptctl.diffusion.fit import State


_MADE_BY = ("program", "state_format", "precision")
"""Of a job's settings, those that say what a state means rather than what is asked for."""


def begun_otherwise(layout: Layout, settings: Mapping[str, Any]) -> bool:
    """Whether there is an interrupted run of the same request whose state means something else."""

    def asked(of: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in of.items() if name not in _MADE_BY}

    found = [job.settings for job in jobs.found(layout)]
    return settings not in found and any(asked(each) == asked(settings) for each in found)


def to_slot(state: State) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
    """Return the step, the tensors and the rest of a state."""
    tensors = {name: array_tensor(value.float().numpy()) for name, value in state.tensors.items()}
    return state.step, tensors, {"curve": state.curve, "counted": state.counted}


def from_slot(slot: Slot) -> State:
    """Return the state that a slot holds."""
    import torch

    from conceptctl.diffusion.fit import State

    tensors = {
        name: torch.from_numpy(np.frombuffer(tensor.data, dtype="<f4").reshape(tensor.shape).copy())
        for name, tensor in slot.tensors.items()
    }
    return State(slot.step, tensors, slot.state["counted"], list(slot.state["curve"]))


def save_state(job: Job, state: State, kept: Mapping[str, Any]) -> None:
    """Save how far a training is, and what else a run that goes on needs to know."""
    step, tensors, rest = to_slot(state)
    job.save(step, tensors, {**rest, **kept})


def save_drawn(job: Job, drawn: TorchTensor, count: int, kept: Mapping[str, Any]) -> None:
    """Save how many of `count` auxiliary pictures are drawn: as a training that has steps to go until its first."""
    from conceptctl.diffusion.fit import State
    from conceptctl.diffusion.shield import shielded

    with shielded():
        save_state(job, State(len(drawn) - count, {"latents": drawn}), kept)
