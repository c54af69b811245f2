"""DSC-EWC-DC: both consolidations, with classifier scores in both ("Mining your own secrets", algorithm 4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from conceptctl.learning.method import Phase, Task, Trainable
from conceptctl.parts.consolidation import dc_scores, distillation
from conceptctl.parts.consolidation.dc_scores import ScoredFisherMethod
from conceptctl.parts.consolidation.distillation import dsc_phases


@dataclass(frozen=True)
class Config(distillation.Config, dc_scores.Config):
    """DSC's settings and EWC-DC's; the scores of both have one temperature."""


class DscEwcDc(ScoredFisherMethod):
    """As DSC-EWC; what earlier tasks need includes what tells their concepts apart."""

    name = "dsc-ewc-dc"
    paper = "Mining your own secrets (2024), sections 3.1 and 3.2, eqs. 5 and 6, algorithm 4"
    configuration = Config
    config: Config

    def consolidation(self, task: Task, trainable: Trainable) -> Iterator[Phase]:
        """Distillation from itself and from the models of earlier tasks."""
        yield from dsc_phases(task, trainable, self.config)
