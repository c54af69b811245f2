"""VeRA with EWC-DC: what earlier tasks need of the vectors ("Mining your own secrets", appendix G.1)."""

from __future__ import annotations

from dataclasses import dataclass

from conceptctl.learning.method import Losses, Step, Task
from conceptctl.parts.adapters import vera
from conceptctl.parts.adapters.continued import ContinuedVera
from conceptctl.parts.consolidation import dc_scores
from conceptctl.parts.consolidation.dc_scores import dc_ewc_loss
from conceptctl.parts.consolidation.fisher import FisherMethod


@dataclass(frozen=True)
class Config(vera.Config, dc_scores.Config):
    """EWC-DC's settings, with VeRA's rank."""


class VeraEwcDc(FisherMethod):
    """EWC-DC over the vectors of one continued VeRA adapter."""

    name = "vera-ewc-dc"
    paper = "Mining your own secrets (2024), section 3.1 and appendix G.1; VeRA: Kopiczko et al. 2024"
    adapter = ContinuedVera
    configuration = Config
    config: Config

    def ewc_loss(self, step: Step, task: Task) -> Losses:
        """Denoising, and telling the concept from others."""
        return dc_ewc_loss(step, task, self.config)
