"""EWC-DC: EWC whose Fisher matrix is also that of classifying ("Mining your own secrets", section 3.1, algorithm 2)."""

from __future__ import annotations

from conceptctl.learning.method import Losses, Step, Task
from conceptctl.parts.consolidation.dc_scores import Config, dc_ewc_loss
from conceptctl.parts.consolidation.fisher import FisherMethod


class EwcDc(FisherMethod):
    """As EWC; what earlier tasks need includes what tells their concepts apart."""

    name = "ewc-dc"
    paper = "Mining your own secrets (2024), section 3.1, eqs. 4 and 5, algorithm 2"
    configuration = Config
    config: Config

    def ewc_loss(self, step: Step, task: Task) -> Losses:
        """Denoising, and telling the concept from others."""
        return dc_ewc_loss(step, task, self.config)
