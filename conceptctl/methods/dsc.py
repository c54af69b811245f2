"""DSC: diffusion scores consolidation ("Mining your own secrets", section 3.2, algorithm 3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from conceptctl.learning import method
from conceptctl.learning.method import Learned, Losses, Method, Phase, Step, Task, Trainable
from conceptctl.parts.adapters.continued import attach_continued, continued, finish_continued
from conceptctl.parts.consolidation.distillation import Teacher, double_distillation


@dataclass(frozen=True)
class Config(method.Config):
    """DSC's settings; values from section 4."""

    dsc_score_weight: float = 0.1
    """gamma of eq. 6, of the scores."""
    dsc_noise_weight: float = 1.5
    """lambda of eq. 6, of the predicted noise."""
    dc_temperature: float = 1.0
    """tau of the student's scores, in units of the mean squared error."""
    teacher_temperature: float = 0.05
    """tau of the teachers' scores."""
    consolidation_share: float = 0.2
    """Steps of the consolidation, as a share of the training's."""


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
        """Learn; then, where there was a task before, consolidate, with the token as it is."""
        yield self.training(task, trainable)
        if not task.earlier:
            return
        adapter = continued(trainable)
        # The student starts from the task's own adapter, which is its first teacher.
        adapter.remember_teacher()
        steps = max(1, round(self.config.consolidation_share * self.config.steps))
        schedule = self.config.schedule(task.seed).plain(steps)
        yield Phase("consolidating", schedule, lambda step: self.dsc_loss(step, task, trainable), adapter.groups())

    def dsc_loss(self, step: Step, task: Task, trainable: Trainable) -> Losses:
        """Eq. 6, with a random earlier task's model as the second teacher."""
        adapter, config = continued(trainable), self.config
        earlier = task.earlier[int(torch.randint(len(task.earlier), (), generator=step.generator))]
        prompts = [prompt for prompt in (task.prior_prompt, task.prompt, earlier.prompt) if prompt]
        first = Teacher(adapter.increment_of(adapter.teacher), len(prompts) - 2)
        second = Teacher(earlier.deltas(), len(prompts) - 1)
        scores, noise = double_distillation(
            step,
            prompts,
            [first, second],
            temperature=config.dc_temperature,
            teacher_temperature=config.teacher_temperature,
        )
        return {"scores": config.dsc_score_weight * scores, "noise": config.dsc_noise_weight * noise}

    def finish(self, task: Task, trainable: Trainable) -> Learned:
        """The increment and the adapter."""
        return finish_continued(task, trainable)
