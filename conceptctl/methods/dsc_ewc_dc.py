"""DSC-EWC-DC: both consolidations, with classifier scores in both ("Mining your own secrets", algorithm 4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from conceptctl.learning.method import Losses, Phase, Step, Task, Trainable
from conceptctl.parts.consolidation import dc_scores, distillation
from conceptctl.parts.consolidation.dc_scores import dc_ewc_loss
from conceptctl.parts.consolidation.distillation import dsc_phases
from conceptctl.parts.consolidation.fisher import FisherMethod


@dataclass(frozen=True)
class Config(distillation.Config, dc_scores.Config):
    """DSC's settings and EWC-DC's; the scores of both have one temperature."""


class DscEwcDc(FisherMethod):
    """As DSC-EWC; what earlier tasks need includes what tells their concepts apart."""

    name = "dsc-ewc-dc"
    paper = "Mining your own secrets (2024), sections 3.1 and 3.2, eqs. 5 and 6, algorithm 4"
    configuration = Config
    config: Config

    def ewc_loss(self, step: Step, task: Task) -> Losses:
        """Denoising, and telling the concept from others."""
        return dc_ewc_loss(step, task, self.config)

    def consolidation(self, task: Task, trainable: Trainable) -> Iterator[Phase]:
        """Distillation from itself and from the models of earlier tasks."""
        yield from dsc_phases(task, trainable, self.config)
