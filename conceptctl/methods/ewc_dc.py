"""EWC-DC: EWC whose Fisher matrix is also that of classifying ("Mining your own secrets", section 3.1, algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass

from conceptctl.learning.method import Losses, Step, Task
from conceptctl.parts.consolidation import fisher
from conceptctl.parts.consolidation.dc_scores import concept_subset, contrast, dc_errors, dc_log_scores
from conceptctl.parts.consolidation.fisher import FisherMethod


@dataclass(frozen=True)
class Config(fisher.Config):
    """EWC's settings and those of the scores; values from section 4."""

    dc_weight: float = 0.5
    """delta of eq. 5."""
    dc_concepts: int = 5
    """k: how many concepts scores are computed over."""
    dc_temperature: float = 1.0
    """tau of eq. 3, in units of the mean squared error."""


class EwcDc(FisherMethod):
    """As EWC; what earlier tasks need includes what tells their concepts apart."""

    name = "ewc-dc"
    paper = "Mining your own secrets (2024), section 3.1, eqs. 4 and 5, algorithm 2"
    configuration = Config
    config: Config

    def ewc_loss(self, step: Step, task: Task) -> Losses:
        """L_denoise + delta sum_i s_i H_i (eq. 5), all of it from one prediction under each concept."""
        prompts, own = concept_subset(task, self.config.dc_concepts, step.generator)
        errors, _ = dc_errors(step, prompts)
        scores = contrast(dc_log_scores(errors, self.config.dc_temperature), own)
        return {"denoising": step.mean(errors[:, own]), "dc": self.config.dc_weight * step.mean(scores)}
