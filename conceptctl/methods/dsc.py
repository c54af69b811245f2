"""DSC: diffusion scores consolidation ("Mining your own secrets", section 3.2, algorithm 3)."""

from __future__ import annotations

from collections.abc import Iterator

from conceptctl.learning.method import Phase, Task, Trainable
from conceptctl.parts.adapters.continued import ContinuedMethod
from conceptctl.parts.consolidation.distillation import Config, dsc_phases


class Dsc(ContinuedMethod):
    """After learning, the adapter is distilled: from itself, and from the models of earlier tasks, one a step."""

    name = "dsc"
    paper = "Mining your own secrets (2024), section 3.2, eq. 6, algorithm 3"
    configuration = Config
    config: Config

    def phases(self, task: Task, trainable: Trainable) -> Iterator[Phase]:
        """Learn; then, where there was a task before, consolidate."""
        yield self.training(task, trainable)
        yield from dsc_phases(task, trainable, self.config)
