"""What a method is: how a concept is attached to a model, and what is added to the loss.

The defaults are sequential fine-tuning: a low-rank adapter and a token row, trained on top of everything that was
learned before, with nothing done against forgetting. Every method states only how it differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from conceptctl.diffusion.fit import Schedule, Trainable
from conceptctl.diffusion.projections import Shape, Stacks
from conceptctl.parts.adapters.low_rank import LowRank, damped
from conceptctl.parts.penalties import combined, preservation
from conceptctl.parts.tokens import Row

POCKET: Mapping[str, float | int | str] = MappingProxyType(
    {
        "steps": 1000,
        "batch_size": 7,
        "auxiliary_batch": 1,
        "optimizer": "muon",
        "learning_rate": 0.02,
        "token_learning_rate": 2e-3,
        "scheduler": "cosine",
        "p2_gamma": 1.0,
        "timestep_sampling": "importance",
        "prompts": "described",
    }
)
"""Settings that suit the bundled base whatever the method: a concept in two or three minutes on two CPU cores."""


PROMPTS = ("plain", "described")
"""What pictures without a caption are learned under: the method's prompt, or also with what is around the concept."""


@dataclass(frozen=True)
class Config:
    """How a method learns a concept; the defaults are the papers', for Stable Diffusion."""

    steps: int = 500
    """Optimizer steps."""
    batch_size: int = 8
    """The concept's pictures in a step."""
    auxiliary_batch: int = 8
    """Auxiliary pictures in a step, beside the concept's."""
    learning_rate: float = 5e-4
    """Step size of the adapters."""
    token_learning_rate: float = 5e-4
    """Step size of the token."""
    preservation_weight: float = 0.0
    """Of the penalty on what a task changes for prompts that are not its own; ours, not in the papers."""
    damping: float = 0.0
    """How much smaller the adapters' steps are along the hidden states of prompts that are not its own; ours."""
    accumulation: int = 1
    """Portions of that size in a step, one after the other, where memory is short."""
    rank: int = 16
    """Rank of the low-rank adapters."""
    warmup: int = 0
    """Steps over which the learning rates rise."""
    scheduler: str = "constant"
    """How the learning rates go on: one of `SCHEDULERS`."""
    optimizer: str = "adam"
    """What trains the factors of the adapters: one of `OPTIMIZERS`; Adam trains everything else."""
    snr_gamma: float = 0.0
    """The signal-to-noise ratio above which a sample counts less, as the diffusers scripts have it; 0 for none."""
    p2_gamma: float = 0.0
    """The power of 1 / (1 + signal-to-noise ratio) with which a sample counts: the more noise, the more; 0 for none."""

    timestep_sampling: str = "uniform"
    """How a sample's time is drawn: one of `TIMESTEP_SAMPLINGS`."""
    prompts: str = "plain"
    """What pictures without a caption are learned under: one of `PROMPTS`."""

    def schedule(self, seed: int) -> Schedule:
        """What of it the training loop follows."""
        names = {each.name for each in fields(Schedule)} - {"seed"}
        return Schedule(seed=seed, **{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class Task:
    """One concept to learn, as a method sees it."""

    shapes: Mapping[str, Shape]
    """The projections, (D1, D2) by place."""
    start: Tensor
    """Where the token begins, (1, D)."""
    earlier: Stacks = field(default_factory=Stacks)
    """The absolute value of the sum of all earlier deltas, (D1, D2) by place: of all places, or none."""
    seed: int = 0
    states: Tensor | None = None
    """R of shape (D2, k): the hidden states of prompts that are to stay as they are; see `parts.penalties`."""
    sizes: Mapping[str, Tensor] = field(default_factory=dict)
    """What the projections make of those before this task, |W R|^2 by place."""


class Method:
    """A method with its settings. It steps no optimizer, opens no file and prints nothing."""

    name: ClassVar[str]
    paper: ClassVar[str]
    """Where it is described."""
    prompt: ClassVar[str] = "a photo of a {token} {word}"
    """What pictures without a caption are learned under; STAMINA and C-LoRA leave out the class word. See `PROMPTS`."""
    configuration: ClassVar[type[Config]] = Config
    """What can be set."""
    pocket: ClassVar[Mapping[str, float | int | str]] = POCKET
    """What is chosen differently on the bundled base; docs/methods.md says why."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def attach(self, task: Task) -> Trainable:
        """Make what trains, on the CPU."""
        generator = torch.Generator().manual_seed(task.seed)
        adapter = self.low_rank(task, generator)
        return Trainable(adapter, Row(task.start), self.config.token_learning_rate)

    def low_rank(self, task: Task, generator: torch.Generator, start: float = 0.0) -> LowRank:
        """Make low-rank adapters; `start` is the deviation of the first A."""
        config = self.config
        inputs = damped(task.states, config.damping) if config.damping and task.states is not None else None
        return LowRank(task.shapes, config.rank, config.learning_rate, generator=generator, start=start, inputs=inputs)

    def penalty(
        self, trainable: Trainable, deltas: Stacks, task: Task, share: float, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        """What is added to the denoising loss, by name.

        Args:
            trainable: What `attach` made.
            deltas: The deltas of this step, by place.
            task: What is learned.
            share: The share of steps done, 0 to 1.
            generator: Where all that is random in it comes from, on the CPU.
        """
        weight = self.config.preservation_weight
        if task.states is None or not deltas or not weight:
            return {}
        return {"preservation": weight * preservation(deltas, combined(task.states, generator), task.sizes)}
