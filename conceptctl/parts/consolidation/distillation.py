"""Double distillation: one student keeps to a new teacher and to an old one (Zhang et al. 2020).

Here it is of diffusion-classifier scores and of noise predictions ("Mining your own secrets", section 3.2, eq. 6).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from conceptctl.learning.method import Losses, Phase, Step, Task, Trainable
from conceptctl.learning.schedule import Later
from conceptctl.learning.weights import Deltas
from conceptctl.parts.adapters.continued import continued
from conceptctl.parts.consolidation import phase_length
from conceptctl.parts.consolidation.dc_scores import dc_errors, dc_log_scores

CONSOLIDATING = "consolidating"
"""What the phase is called."""
_CLASSES = 3
"""Of the scores: the prior concept, the new one, and an earlier one."""


@dataclass(frozen=True)
class Config(phase_length.Config):
    """DSC's settings; values from section 4."""

    dsc_score_weight: float = 0.1
    """gamma of eq. 6, of the scores."""
    dsc_noise_weight: float = 1.5
    """lambda of eq. 6, of the predicted noise."""
    dc_temperature: float = 1.0
    """tau of the student's scores, in units of the mean squared error."""
    teacher_temperature: float = 0.05
    """tau of the teachers' scores."""

    def later(self) -> tuple[Later, ...]:
        """The distillation, and what follows."""
        return (Later(CONSOLIDATING, self.consolidation_steps, _CLASSES, 2 * _CLASSES), *super().later())


@dataclass(frozen=True)
class Teacher:
    """A model, and the one of the prompts that it teaches."""

    deltas: Deltas
    own: int


def double_distillation(
    step: Step, prompts: list[str], teachers: list[Teacher], *, temperature: float, teacher_temperature: float
) -> tuple[Tensor, Tensor]:
    """Compare a student with its teachers under some prompts, at one noise and time a sample.

    Args:
        step: The batch; its own deltas are the student's.
        prompts: The classes of the scores.
        teachers: Each with its own class among them.
        temperature: tau of the student's scores.
        teacher_temperature: tau of the teachers', sharper (Caron et al. 2021).

    Returns:
        The sum over teachers of H(p_teacher, p_student), and that of the mean squared differences of the noise that
        student and teacher predict for the teacher's own class.
    """
    errors, predicted = dc_errors(step, prompts)
    log_scores = dc_log_scores(errors, temperature)
    entropies, differences = [], []
    for teacher in teachers:
        found, told = dc_errors(step, prompts, deltas=teacher.deltas)
        wanted = dc_log_scores(found, teacher_temperature).exp()
        entropies.append(step.mean(-(wanted * log_scores).sum(dim=1)))
        differences.append(step.mean(step.differences(predicted[teacher.own], told[teacher.own])))
    return sum(entropies[1:], entropies[0]), sum(differences[1:], differences[0])


def dsc_loss(step: Step, task: Task, trainable: Trainable, config: Config) -> Losses:
    """Eq. 6, with a random earlier task's model as the second teacher."""
    adapter = continued(trainable)
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


def dsc_phases(task: Task, trainable: Trainable, config: Config) -> Iterator[Phase]:
    """Consolidate a trained adapter, with the token as it is (algorithm 3); nothing after a first task."""
    if not task.earlier:
        return
    adapter = continued(trainable)
    # The student starts from the task's own adapter, which is its first teacher.
    adapter.remember_teacher()
    yield Phase(
        CONSOLIDATING,
        config.schedule(task.seed).plain(config.consolidation_steps),
        lambda step: dsc_loss(step, task, trainable, config),
        trainable.adapter_groups(),
        passes=_CLASSES,
    )
