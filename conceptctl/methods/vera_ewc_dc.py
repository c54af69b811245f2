"""VeRA with EWC-DC: what earlier tasks need of the vectors ("Mining your own secrets", appendix G.1)."""

from __future__ import annotations

from dataclasses import dataclass

from conceptctl.parts.adapters import vera
from conceptctl.parts.adapters.continued import ContinuedVera
from conceptctl.parts.consolidation import dc_scores
from conceptctl.parts.consolidation.dc_scores import ScoredFisherMethod


@dataclass(frozen=True)
class Config(vera.Config, dc_scores.Config):
    """EWC-DC's settings, with VeRA's rank."""


class VeraEwcDc(ScoredFisherMethod):
    """EWC-DC over the vectors of one continued VeRA adapter."""

    name = "vera-ewc-dc"
    paper = "Mining your own secrets (2024), section 3.1 and appendix G.1; VeRA: Kopiczko et al. 2024"
    adapter = ContinuedVera
    configuration = Config
    config: Config
