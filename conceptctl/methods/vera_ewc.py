"""VeRA with EWC: entries of the vectors are held ("Mining your own secrets", appendix G.1)."""

from __future__ import annotations

from dataclasses import dataclass

from conceptctl.parts.adapters import vera
from conceptctl.parts.adapters.continued import ContinuedVera
from conceptctl.parts.consolidation import fisher
from conceptctl.parts.consolidation.fisher import ContinuedFisherMethod


@dataclass(frozen=True)
class Config(vera.Config, fisher.Config):
    """EWC's settings, with VeRA's rank."""


class VeraEwc(ContinuedFisherMethod):
    """EWC over the vectors of one continued VeRA adapter."""

    name = "vera-ewc"
    paper = "Mining your own secrets (2024), section 3.1 and appendix G.1; VeRA: Kopiczko et al. 2024"
    configuration = Config
    config: Config
    adapter = ContinuedVera
