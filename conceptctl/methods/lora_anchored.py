"""Sequential LoRA whose adapters are kept from changing what other prompts draw: a control, and no paper's."""

from __future__ import annotations

from conceptctl.learning.method import Losses, Method, Step, Task, Trainable
from conceptctl.parts.adapters.low_rank import attach_low_rank
from conceptctl.parts.preservation import Config, preservation_loss


class LoraAnchored(Method):
    """What `stamina-anchored` adds to `stamina`, added to `lora`: it shows how much of the keeping that alone does."""

    name = "lora-anchored"
    paper = "ours: `lora` with the penalty of `stamina-anchored`"
    configuration = Config
    config: Config

    def attach(self, task: Task) -> Trainable:
        """Make adapters and a token row."""
        return attach_low_rank(task, self.config)

    def penalty(self, step: Step, task: Task, trainable: Trainable) -> Losses:
        """What changes for prompts that are not the concept's."""
        return preservation_loss(step, task, self.config)
