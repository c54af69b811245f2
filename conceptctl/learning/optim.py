"""Optimizers and learning-rate schedules, by the names that settings have for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from conceptctl.errors import UsageError
from conceptctl.learning.method import ParameterGroups
from conceptctl.learning.muon import Muon
from conceptctl.learning.schedule import Schedule

OPTIMIZERS = ("adam", "muon", "adam8bit")
"""Adam for everything, Muon for the factors and Adam for the rest, or Adam with moments of 8 bits: bitsandbytes has it
(Dettmers et al. 2022, "8-bit optimizers via block-wise quantization"), and it is worth it where many weights train."""
_EIGHT_BITS = "adam8bit"

SCHEDULERS = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts")
"""How learning rates go on, by diffusers' names for them."""


def check_optimizer(name: str) -> None:
    """Check that an optimizer is there.

    Raises:
        UsageError: It needs a library that is not installed.
    """
    if name == _EIGHT_BITS and find_spec("bitsandbytes") is None:
        raise UsageError("8-bit Adam needs bitsandbytes", hint="pip install bitsandbytes, or --set optimizer=adam")


def make_optimizers(groups: ParameterGroups, name: str) -> list[torch.optim.Optimizer]:
    """Muon for the factors if it is asked for, Adam for everything else, or Adam of 8 bits; none for no groups."""
    own = [{key: value for key, value in group.items() if key != "factors"} for group in groups]
    if name == _EIGHT_BITS:
        return [import_module("bitsandbytes").optim.Adam8bit(own, own[0]["lr"])] if own else []
    factors = [group.get("factors", False) and name == "muon" for group in groups]
    # Whatever their rank: a learning rate for orthogonal steps is too high for others.
    ours = [{**group, "stacks": True} for group, of_muon in zip(own, factors, strict=True) if of_muon]
    rest = [group for group, of_muon in zip(own, factors, strict=True) if not of_muon]
    made: list[torch.optim.Optimizer] = [Muon(ours, ours[0]["lr"])] if ours else []
    return [*made, torch.optim.Adam(rest, rest[0]["lr"], fused=True)] if rest else made


def leaves_out(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer looks at its own `found_inf` on the device; see `scaling.LossScaler`."""
    return isinstance(optimizer, Muon) or bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def as_saved(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """An optimizer's state of one parameter as tensors."""
    return {name: torch.as_tensor(value) for name, value in state.items()}


def as_kept(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The same as the optimizer has it: what was saved is in fp32."""
    if type(optimizer).__name__ != "Adam8bit":
        return dict(state)
    eight = ("state1", "state2") if "qmap1" in state else ()
    kept: dict[str, Any] = {name: value.to(torch.uint8) if name in eight else value for name, value in state.items()}
    kept["step"] = int(state["step"])
    return kept


def make_schedules(
    optimizers: Sequence[torch.optim.Optimizer],
    schedule: Schedule,
    done: int,
    factor: Callable[[int], float] | None = None,
) -> list[torch.optim.lr_scheduler.LRScheduler]:
    """Learning rates over a phase, as they are after so many of its steps.

    Args:
        optimizers: Whose.
        schedule: Of the phase.
        done: How many of its steps are done.
        factor: Given how many, what rates are multiplied with after the warm-up, in the scheduler's place.
    """
    from diffusers.optimization import get_scheduler

    name = "constant_with_warmup" if schedule.scheduler == "constant" and schedule.warmup else schedule.scheduler
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    if factor is not None:
        whole, warmup = factor, max(1, schedule.warmup)
        rate = lambda step: min(1.0, step / warmup if schedule.warmup else 1.0) * whole(step)  # noqa: E731
        return [torch.optim.lr_scheduler.LambdaLR(optimizer, rate, done - 1) for optimizer in optimizers]
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
