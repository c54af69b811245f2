"""Custom Diffusion with EWC: weights that earlier concepts need are held (STAMINA, section 5)."""

from __future__ import annotations

from dataclasses import dataclass

from conceptctl.learning.method import Learned, Task, Trainable
from conceptctl.parts.adapters import full
from conceptctl.parts.adapters.continued import last_continued
from conceptctl.parts.adapters.full import MeasuredFull
from conceptctl.parts.consolidation import fisher
from conceptctl.parts.consolidation.fisher import FisherMethod, measured
from conceptctl.parts.tokens import TokenEmbedding


@dataclass(frozen=True)
class Config(full.Config, fisher.Config):
    """Custom Diffusion's settings and EWC's."""


class CdEwc(FisherMethod):
    """Whole keys and values train; moving those that earlier concepts need has a price."""

    name = "cd-ewc"
    paper = "Smith et al. 2024, STAMINA, section 5: Kumari et al. 2023 with Kirkpatrick et al. 2017"
    prompt = "a photo of a {token} {word}"
    configuration = Config
    config: Config

    def attach(self, task: Task) -> Trainable:
        """Make a change of every target, with what the last task of this kind left to be held, and a token row."""
        before = last_continued(task.earlier, MeasuredFull.state_kinds())
        adapter = MeasuredFull(task.shapes, self.config.learning_rate, before.state() if before else {})
        return Trainable(adapter, TokenEmbedding(task.token_start), self.config.token_learning_rate)

    def finish(self, task: Task, trainable: Trainable) -> Learned:
        """The change, and the Fisher matrix of all tasks; each change means something without the others."""
        state = measured(trainable).state(self.fisher(trainable))
        return Learned(trainable.folded(), trainable.tokens(), state)
