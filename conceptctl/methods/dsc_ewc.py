"""DSC-EWC: both consolidations, one after the other ("Mining your own secrets", algorithm 4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from conceptctl.learning.method import Phase, Task, Trainable
from conceptctl.parts.consolidation import distillation, fisher
from conceptctl.parts.consolidation.distillation import dsc_phases
from conceptctl.parts.consolidation.fisher import ContinuedFisherMethod


@dataclass(frozen=True)
class Config(distillation.Config, fisher.Config):
    """DSC's settings and EWC's."""


class DscEwc(ContinuedFisherMethod):
    """The training has EWC's price; what it leaves is distilled; of that the Fisher matrix is measured."""

    name = "dsc-ewc"
    paper = "Mining your own secrets (2024), sections 3.1 and 3.2, algorithm 4"
    configuration = Config
    config: Config

    def consolidation(self, task: Task, trainable: Trainable) -> Iterator[Phase]:
        """Distillation from itself and from the models of earlier tasks."""
        yield from dsc_phases(task, trainable, self.config)
