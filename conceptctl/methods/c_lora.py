"""C-LoRA: self-regularized low-rank adapters, one on top of the other (Smith et al. 2024, "Continual diffusion")."""

from __future__ import annotations

from dataclasses import dataclass

from conceptctl.learning import method
from conceptctl.learning.method import Losses, Method, Step, Task, Trainable
from conceptctl.parts.adapters.low_rank import attach_low_rank
from conceptctl.parts.penalties import forgetting


@dataclass(frozen=True)
class Config(method.Config):
    """C-LoRA's settings; values from STAMINA's section 5 and appendix D."""

    steps: int = 2000
    """Optimizer steps."""
    forgetting_weight: float = 1e8
    """lambda_f of eq. 1, of what is changed again."""

    @property
    def needs_change(self) -> bool:
        """What earlier concepts changed costs when it is changed again."""
        return bool(self.forgetting_weight)


class CLora(Method):
    """An adapter pays for every weight that it changes again: |sum of earlier deltas| * (A B), squared (eq. 3)."""

    name = "c-lora"
    paper = "Smith et al. 2024, C-LoRA; as in STAMINA, section 3, eqs. 1 to 3"
    prompt = "a photo of a {token}"
    configuration = Config
    config: Config

    def attach(self, task: Task) -> Trainable:
        """Make adapters and a token row."""
        return attach_low_rank(task, self.config)

    def penalty(self, step: Step, task: Task, trainable: Trainable) -> Losses:
        """What changes again of what earlier concepts changed; nothing for a first one."""
        if not task.change:
            return {}
        return {"forgetting": self.config.forgetting_weight * forgetting(step.deltas, task.change)}
