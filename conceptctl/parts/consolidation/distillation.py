"""Double distillation: one student keeps to a new teacher and to an old one (Zhang et al. 2020).

Here it is of diffusion-classifier scores and of noise predictions ("Mining your own secrets", section 3.2, eq. 6).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from conceptctl.learning.method import Step
from conceptctl.learning.weights import Deltas
from conceptctl.parts.consolidation.dc_scores import dc_errors, dc_log_scores


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
