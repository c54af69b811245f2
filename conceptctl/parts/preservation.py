"""Low-rank adapters that may be kept from changing what other prompts draw: ours, not in the papers of the methods.

Two settings: a penalty on the change of other prompts' keys and values, and smaller steps along their hidden states.
Methods that have them are called `-anchored`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from conceptctl.learning import method
from conceptctl.learning.method import Losses, Step, Task
from conceptctl.parts.adapters.low_rank import LowRank, preconditioner
from conceptctl.parts.penalties import hutchinson_sketch, preservation


@dataclass(frozen=True)
class Config(method.Config):
    """The settings of a method with such adapters."""

    preservation_weight: float = 0.05
    """Of the penalty on what a task changes for prompts that are not its own; ours, not in the papers."""
    damping: float = 1.0
    """How much smaller the adapters' steps are along the hidden states of prompts that are not its own; ours."""

    @property
    def needs_reference(self) -> bool:
        """Whether the task must say what other prompts' hidden states are."""
        return bool(self.preservation_weight or self.damping)


def make_low_rank(task: Task, config: Config, generator: torch.Generator, init_std: float = 0.0) -> LowRank:
    """Make low-rank adapters for all targets; `init_std` is the deviation of the first A."""
    factor = task.reference_factor if config.damping else None
    return LowRank(
        task.shapes,
        config.rank,
        config.learning_rate,
        generator=generator,
        init_std=init_std,
        preconditioner=None if factor is None else preconditioner(factor, config.damping),
    )


def preservation_loss(step: Step, task: Task, config: Config) -> Losses:
    """The penalty, by name; nothing where it is off."""
    if task.reference_factor is None or not config.preservation_weight:
        return {}
    sketch = hutchinson_sketch(task.reference_factor, step.generator)
    return {"preservation": config.preservation_weight * preservation(step.deltas, sketch, task.output_energy)}
