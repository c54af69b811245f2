"""Optimizers and learning-rate schedules, by the names that settings have for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from conceptctl.learning.method import ParameterGroups, Schedule
from conceptctl.learning.muon import Muon

OPTIMIZERS = ("adam", "muon")
"""Adam for everything, or Muon for the factors and Adam for the rest."""

SCHEDULERS = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts")
"""How learning rates go on, by diffusers' names for them."""


def make_optimizers(groups: ParameterGroups, name: str) -> list[torch.optim.Optimizer]:
    """Muon for the factors if it is asked for, Adam for everything else."""
    own = [{key: value for key, value in group.items() if key != "factors"} for group in groups]
    factors = [group.get("factors", False) and name == "muon" for group in groups]
    # Whatever their rank: a learning rate for orthogonal steps is too high for others.
    ours = [{**group, "stacks": True} for group, of_muon in zip(own, factors, strict=True) if of_muon]
    rest = [group for group, of_muon in zip(own, factors, strict=True) if not of_muon]
    made: list[torch.optim.Optimizer] = [Muon(ours, ours[0]["lr"])] if ours else []
    return [*made, torch.optim.Adam(rest, rest[0]["lr"], fused=True)] if rest else made


def make_schedules(
    optimizers: Sequence[torch.optim.Optimizer], schedule: Schedule, done: int
) -> list[torch.optim.lr_scheduler.LRScheduler]:
    """Learning rates over a phase, as they are after so many of its steps."""
    from diffusers.optimization import get_scheduler

    name = "constant_with_warmup" if schedule.scheduler == "constant" and schedule.warmup else schedule.scheduler
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return [
        get_scheduler(
            name,
            optimizer,
            num_warmup_steps=schedule.warmup,
            num_training_steps=schedule.steps,
            last_epoch=done - 1,
        )
        for optimizer in optimizers
    ]
