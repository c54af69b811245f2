"""How long the phases are that follow the learning: a share of its steps."""

from __future__ import annotations

from dataclasses import dataclass

from conceptctl.learning import method


@dataclass(frozen=True)
class Config(method.Config):
    """What methods are set by that consolidate after the learning."""

    consolidation_share: float = 0.2
    """Steps of a consolidation phase, as a share of the training's ("Mining your own secrets", section 4)."""

    @property
    def consolidation_steps(self) -> int:
        """Steps of a consolidation phase."""
        return max(1, round(self.consolidation_share * self.steps))
