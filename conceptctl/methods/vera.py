"""VeRA, one adapter that goes on: vectors over frozen random projections (Kopiczko et al. 2024)."""

from __future__ import annotations

from conceptctl.learning.method import Learned, Method, Task, Trainable
from conceptctl.parts.adapters.continued import ContinuedVera, attach_continued, finish_continued
from conceptctl.parts.adapters.vera import Config


class Vera(Method):
    """Two vectors of each target train, over projections that all share; nothing is done against forgetting."""

    name = "vera"
    paper = "Mining your own secrets (2024), appendix G.1; VeRA: Kopiczko et al. 2024, eq. 2"
    prompt = "a photo of a {token}"
    configuration = Config
    config: Config

    def attach(self, task: Task) -> Trainable:
        """Go on with the vectors of the task before."""
        return attach_continued(task, self.config, ContinuedVera)

    def finish(self, task: Task, trainable: Trainable) -> Learned:
        """The increment and the vectors."""
        return finish_continued(task, trainable)
