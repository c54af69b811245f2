"""Diffusion-classifier (DC) scores: under which prompt a picture's noise is predicted best.

Li et al. 2023, "Your diffusion model is secretly a zero-shot classifier", and Clark & Jaini 2024; as a regularizer in
"Mining your own secrets: diffusion classifier scores for continual personalization", eq. 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conceptctl.learning.method import Losses, Predicted, Step, Task
from conceptctl.learning.weights import Deltas
from conceptctl.parts.consolidation import fisher
from conceptctl.parts.consolidation.fisher import ContinuedFisherMethod


@dataclass(frozen=True)
class Config(fisher.Config):
    """EWC's settings and those of the scores; values from section 4."""

    dc_weight: float = 0.5
    """delta of eq. 5."""
    dc_concepts: int = 5
    """k: how many concepts scores are computed over."""
    dc_temperature: float = 1.0
    """tau of eq. 3, in units of the mean squared error."""

    @property
    def measured_passes(self) -> int:
        """Predictions of each sample: under its own prompt, and under that of each concept."""
        return 1 + self.dc_concepts


def dc_errors(step: Step, prompts: Sequence[str], *, deltas: Deltas | None = None) -> tuple[Tensor, list[Predicted]]:
    """Predict under each prompt, at the step's one noise and time a sample: one trial a class (section 3.1).

    Completes the paper: the squared error is the mean over a picture's elements; tau is in units of that.

    Args:
        step: The batch.
        prompts: One for each class.
        deltas: A teacher's, without gradients; by default the step's own.

    Returns:
        The errors (B, classes), and each class's prediction.
    """
    predicted = [step.predict(prompt, deltas=deltas) for prompt in prompts]
    return torch.stack([step.errors(each) for each in predicted], dim=1), predicted


def dc_log_scores(errors: Tensor, temperature: float) -> Tensor:
    """Log p(class | picture) of eq. 3, (B, classes), all classes being alike likely beforehand."""
    return torch.log_softmax(-errors / temperature, dim=1)


def concept_subset(task: Task, most: int, generator: torch.Generator) -> tuple[list[str], int]:
    """Choose the classes of one step: the prior concept, this one, and earlier ones at random (section 3.1).

    With k = 2 the prior concept makes room for an earlier one (figure 16); a first task has none, and keeps it.

    Args:
        task: Whose concept.
        most: k, how many in all.
        generator: Of what is chosen.

    Returns:
        Their prompts, and which of them is this task's own.
    """
    prior = task.prior_prompt if most > 2 or not task.earlier else ""
    prompts = [prompt for prompt in (prior, task.prompt) if prompt]
    chosen = torch.randperm(len(task.earlier), generator=generator)[: max(0, most - len(prompts))]
    return [*prompts, *(task.earlier[index].prompt for index in chosen.tolist())], len(prompts) - 1


def contrast(log_scores: Tensor, own: int) -> Tensor:
    """sum_i s_i H_i of eq. 5, (B,): H_i = -log p_i, s = 1 for the task's own class and -1 for every other."""
    signs = torch.full((log_scores.shape[1],), -1.0, device=log_scores.device)
    signs[own] = 1.0
    return -(log_scores * signs).sum(dim=1)


def dc_ewc_loss(step: Step, task: Task, config: Config) -> Losses:
    """L_denoise + delta sum_i s_i H_i (eq. 5, algorithm 2).

    Pictures are denoised under the prompts that they are learned under, as EWC alone has it; in the scores all of them
    have one prompt for each concept.
    """
    prompts, own = concept_subset(task, config.dc_concepts, step.generator)
    errors, _ = dc_errors(step, prompts)
    scores = contrast(dc_log_scores(errors, config.dc_temperature), own)
    return {"denoising": step.mean(step.loss()), "dc": config.dc_weight * step.mean(scores)}


class ScoredFisherMethod(ContinuedFisherMethod):
    """What earlier tasks need includes what tells their concepts apart."""

    configuration = Config
    config: Config

    def ewc_loss(self, step: Step, task: Task) -> Losses:
        """Denoising, and telling the concept from others."""
        return dc_ewc_loss(step, task, self.config)
