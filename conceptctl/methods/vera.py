"""VeRA, one adapter that goes on: vectors over frozen random projections (Kopiczko et al. 2024)."""

from __future__ import annotations

from conceptctl.parts.adapters.continued import ContinuedMethod, ContinuedVera
from conceptctl.parts.adapters.vera import Config


class Vera(ContinuedMethod):
    """Two vectors of each target train, over projections that all share; nothing is done against forgetting."""

    name = "vera"
    paper = "Mining your own secrets (2024), appendix G.1; VeRA: Kopiczko et al. 2024, eq. 2"
    configuration = Config
    config: Config
    adapter = ContinuedVera
