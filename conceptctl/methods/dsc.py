"""DSC: diffusion scores consolidation ("Mining your own secrets", section 3.2, algorithm 3)."""

from __future__ import annotations

from collections.abc import Iterator

from conceptctl.learning.method import Learned, Method, Phase, Task, Trainable
from conceptctl.parts.adapters.continued import attach_continued, finish_continued
from conceptctl.parts.consolidation.distillation import Config, dsc_phases


class Dsc(Method):
    """After learning, the adapter is distilled: from itself, and from the models of earlier tasks, one a step."""

    name = "dsc"
    paper = "Mining your own secrets (2024), section 3.2, eq. 6, algorithm 3"
    prompt = "a photo of a {token}"
    configuration = Config
    config: Config

    def attach(self, task: Task) -> Trainable:
        """Go on with the adapter of the task before."""
        return attach_continued(task, self.config)

    def phases(self, task: Task, trainable: Trainable) -> Iterator[Phase]:
        """Learn; then, where there was a task before, consolidate."""
        yield self.training(task, trainable)
        yield from dsc_phases(task, trainable, self.config)

    def finish(self, task: Task, trainable: Trainable) -> Learned:
        """The increment and the adapter."""
        return finish_continued(task, trainable)
