"""EWC-DC: EWC whose Fisher matrix is also that of classifying ("Mining your own secrets", section 3.1, algorithm 2)."""

from __future__ import annotations

from conceptctl.parts.consolidation.dc_scores import ScoredFisherMethod


class EwcDc(ScoredFisherMethod):
    """As EWC; what earlier tasks need includes what tells their concepts apart."""

    name = "ewc-dc"
    paper = "Mining your own secrets (2024), section 3.1, eqs. 4 and 5, algorithm 2"
