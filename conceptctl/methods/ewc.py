"""EWC in the space of one continued low-rank adapter ("Mining your own secrets", section 3.1)."""

from __future__ import annotations

from conceptctl.parts.consolidation.fisher import ContinuedFisherMethod


class Ewc(ContinuedFisherMethod):
    """Entries of the adapter that earlier tasks need are held; which those are is measured after each task."""

    name = "ewc"
    paper = "Mining your own secrets (2024), section 3.1; EWC: Kirkpatrick et al. 2017"
