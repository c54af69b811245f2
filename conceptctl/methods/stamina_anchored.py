"""STAMINA that is kept from changing what other prompts draw: the addition is ours, and no paper's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from conceptctl.learning.method import Losses, Step, Task, Trainable
from conceptctl.parts import preservation, stack_and_mask
from conceptctl.parts.adapters.masked_deltas import MaskedDeltas
from conceptctl.parts.penalties import Penalty, Preservation, hutchinson_sketch
from conceptctl.parts.preservation import preservation_loss
from conceptctl.parts.stack_and_mask import StackAndMask

PRESERVATION = "preservation"


@dataclass(frozen=True)
class Config(stack_and_mask.Config, preservation.Config):
    """STAMINA's settings, and the weight of what is added."""


class StaminaAnchored(StackAndMask):
    """STAMINA with a penalty on the change of other prompts' keys and values."""

    name = "stamina-anchored"
    paper = "ours, on Smith et al. 2024, STAMINA; the penalty: Gandikota et al. 2024, eq. 5"
    configuration = Config
    config: Config

    def measured(self, task: Task) -> dict[str, Callable[[torch.Generator], Penalty]]:
        """The change of other prompts' keys and values too."""
        found = super().measured(task)
        factor, energy = task.reference_factor, task.output_energy
        if factor is not None and self.config.preservation_weight:
            found[PRESERVATION] = lambda generator: Preservation(hutchinson_sketch(factor, generator), energy)
        return found

    def penalty(self, step: Step, task: Task, trainable: Trainable) -> Losses:
        """STAMINA's, and that change."""
        losses, deltas = super().penalty(step, task, trainable), step.deltas
        if not isinstance(deltas, MaskedDeltas):
            return {**losses, **preservation_loss(step, task, self.config)}
        if PRESERVATION not in deltas.penalties:
            return losses
        return {**losses, PRESERVATION: self.config.preservation_weight * deltas.penalty(PRESERVATION).mean()}
