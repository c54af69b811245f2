"""Low-rank adapters that may be kept from changing what other prompts draw: ours, not in the papers of the methods.

A penalty on the change of other prompts' keys and values. Methods that have it are called `-anchored`.
"""

from __future__ import annotations

from dataclasses import dataclass

from conceptctl.learning import method
from conceptctl.learning.method import Losses, Step, Task
from conceptctl.parts.penalties import hutchinson_sketch, preservation


@dataclass(frozen=True)
class Config(method.Config):
    """The settings of a method with such adapters."""

    preservation_weight: float = 0.05
    """Of the penalty on what a task changes for prompts that are not its own; ours, not in the papers."""

    @property
    def needs_reference(self) -> bool:
        """Whether the task must say what other prompts' hidden states are."""
        return bool(self.preservation_weight)


def preservation_loss(step: Step, task: Task, config: Config) -> Losses:
    """The penalty, by name; nothing where it is off."""
    if task.reference_factor is None or not config.preservation_weight:
        return {}
    sketch = hutchinson_sketch(task.reference_factor, step.generator)
    return {"preservation": config.preservation_weight * preservation(step.deltas, sketch, task.output_energy)}
