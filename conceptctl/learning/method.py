"""What a method is: what it attaches to a model, in which phases that trains, and what of it is kept.

A method steps no optimizer, opens no file, prints nothing and names no model. The loop (`learning.loop`) runs its
phases; `workflows.learn` makes its `Task` and keeps what it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from conceptctl.learning.prompts import Prompts
from conceptctl.learning.schedule import Later, Schedule
from conceptctl.learning.weights import Deltas, Shape, TokenRows

Losses = Mapping[str, Tensor]
"""Scalars by name; their sum is minimized."""
State = Mapping[str, Tensor]
"""What a method keeps for its next task: fp32 tensors by name, `KIND/PATH` with the parameter path of a target."""
ParameterGroups = Sequence[Mapping[str, Any]]
"""What an optimizer takes: parameters with their learning rate, and `eps` where it matters; `factors` where they are
stacks of matrices that Muon may train."""
Predicted = Tensor | tuple[Tensor, ...]
"""What a network predicts of a batch, (B, ...): of the pictures of each shape by themselves where there are several."""

PROMPTS = ("plain", "described")
"""What pictures without a caption are learned under: the method's prompt, or also with what is around the concept."""


@dataclass(frozen=True)
class Config:
    """How a method learns a concept; the defaults are the papers', for Stable Diffusion."""

    steps: int = 500
    """Optimizer steps; the most of them where `stopping` is `auto`."""
    stopping: str = "fixed"
    """What ends the training: `fixed`, the number of steps; or `auto`, that the concept is learned."""
    batch_size: int = 8
    """The concept's pictures in a step."""
    auxiliary_batch: int = 8
    """Auxiliary pictures in a step, beside the concept's."""
    learning_rate: float = 5e-4
    """Step size of the adapters."""
    token_learning_rate: float = 5e-4
    """Step size of the token."""
    accumulation: int = 1
    """Portions of that size in a step, one after the other, where memory is short."""
    rank: int = 16
    """Rank of the low-rank adapters."""
    warmup: int = 0
    """Steps over which the learning rates rise."""
    scheduler: str = "constant"
    """How the learning rates go on: one of `optim.SCHEDULERS`. Where `stopping` is `auto` they stay, and fall at the
    end."""
    optimizer: str = "adam"
    """What trains the factors of the adapters: one of `optim.OPTIMIZERS`; Adam trains everything else."""
    snr_gamma: float = 0.0
    """The signal-to-noise ratio above which a sample counts less, as the diffusers scripts have it; 0 for none."""
    p2_gamma: float = 0.0
    """The power of 1 / (1 + signal-to-noise ratio) with which a sample counts: the more noise, the more; 0 for none."""
    timestep_sampling: str = "uniform"
    """How a sample's time is drawn: `uniform`, or `importance`."""
    prompts: str = "plain"
    """What pictures without a caption are learned under: one of `PROMPTS`."""

    @property
    def needs_reference(self) -> bool:
        """Whether the task must have a `reference_factor`."""
        return False

    @property
    def needs_change(self) -> bool:
        """Whether the task must have `change`, which is as large as all targets."""
        return False

    def later(self) -> tuple[Later, ...]:
        """The phases that follow the learning, in their order; of these a first task may have fewer."""
        return ()

    def schedule(self, seed: int) -> Schedule:
        """What of it the training loop follows."""
        names = {each.name for each in fields(Schedule)} - {"seed"}
        return Schedule(seed=seed, **{name: getattr(self, name) for name in names})


class Adapter(Protocol):
    """What changes the targets: a module whose call gives a step's deltas."""

    def __call__(self, generator: torch.Generator) -> Deltas:
        """The deltas of a training step; what is random in them comes from the generator."""

    def folded(self) -> Deltas:
        """The deltas that are kept: nothing in them is random."""

    def groups(self) -> ParameterGroups:
        """What trains, and how fast."""

    def measures(self) -> Mapping[str, Tensor]:
        """Scalars worth watching."""


class PromptSource(Protocol):
    """What gives a batch its prompts: an adapter that is no delta."""

    def __call__(self, query: Tensor) -> Prompts:
        """The prompts of pictures of the task, given what the network says of each without any, (B, D)."""

    def of_any_task(self, query: Tensor) -> Prompts:
        """The prompts of pictures of which nobody says what task they are of."""

    def groups(self) -> ParameterGroups:
        """What trains, and how fast."""


class Trainable(nn.Module):
    """All that a training changes: an adapter, and tokens whose call gives their rows by table.

    A transformer that is kept as it is may have prompts in the adapter's place.

    Its parameters and persistent buffers are the state of the training: whatever a phase must remember, for a resumed
    run or for a later phase, is one of them.
    """

    def __init__(
        self,
        adapter: Adapter | None,
        token: nn.Module,
        token_learning_rate: float,
        prompts: PromptSource | None = None,
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.prompts = prompts
        self.token = token
        self.token_learning_rate = token_learning_rate

    def groups(self) -> ParameterGroups:
        """What trains, and how fast."""
        token = {"params": list(self.token.parameters()), "lr": self.token_learning_rate}
        return [*self.adapter_groups(), token]

    def adapter_groups(self) -> ParameterGroups:
        """What trains of the adapter alone."""
        return [*(self.adapter.groups() if self.adapter else ()), *(self.prompts.groups() if self.prompts else ())]

    def tokens(self) -> TokenRows:
        """The rows of the learned tokens, (tokens, D) by table."""
        rows: TokenRows = self.token()
        return rows

    def deltas(self, generator: torch.Generator) -> Deltas:
        """The deltas of a training step."""
        return self.adapter(generator) if self.adapter else Deltas()

    def folded(self) -> Deltas:
        """The deltas that are kept."""
        return self.adapter.folded() if self.adapter else Deltas()


@dataclass(frozen=True)
class Earlier:
    """A task before this one, whose concept is still there."""

    uid: str
    prompt: str
    """What it is asked for by: `a photo of a V*alice`."""
    kinds: frozenset[str] = frozenset()
    """What kinds of state its method kept."""
    state: Callable[[], State] = dict
    """That state; read when it is asked for."""
    deltas: Callable[[], Deltas] = Deltas
    """A teacher: what turns the model of now into that of just after this task; read when it is asked for."""
    contains: tuple[str, ...] = ()
    """The tasks whose change its own increment contains, by uid."""
    consolidated: bool = False
    """Whether its increment is in weights that were solved for when another concept was forgotten, not by itself."""


@dataclass(frozen=True)
class Task:
    """One concept to learn, as a method sees it."""

    shapes: Mapping[str, Shape]
    """The targets, (D1, D2) by parameter path."""
    token_start: TokenRows
    """Where the token begins, (1, D) by table; (n, D) for several tokens at once."""
    prompt: str = ""
    """What the concept is asked for by."""
    prior_prompt: str = ""
    """What auxiliary pictures are learned under: "a photo of a person"; "" where there is no class word."""
    earlier: Sequence[Earlier] = ()
    """In the order of learning."""
    change: Deltas = field(default_factory=Deltas)
    """|sum of all earlier deltas|, by path: of all targets, or of none; see `Config.needs_change`."""
    seed: int = 0
    reference_factor: Tensor | None = None
    """R of shape (D2, k): the second-moment factor of prompts that are to stay as they are; see `parts.penalties`."""
    output_energy: Mapping[str, Tensor] = field(default_factory=dict)
    """What the targets make of those before this task, |W R|^2 by path."""
    to_base: Callable[[], Deltas] = Deltas
    """What turns the weights of now into the base's, by path: of all targets, or of none; read when it is asked for."""
    words: Callable[[TokenRows], Tensor] | None = None
    """Gives the hidden states (s, D2) of the prompt's words from its token on, with given rows of that."""
    layers: int = 0
    """Layers of a transformer that can be given prompts; 0 where the network can be given none."""

    @property
    def width(self) -> int:
        """D2 of the first target: a transformer's width."""
        return next(iter(self.shapes.values()))[1]


class Step(Protocol):
    """One batch with one noise and one time a sample; everything that is asked of it shares them.

    With several processes each holds its part of the batch. What is random is drawn from `generator` alone, which is
    the same in all.
    """

    progress: float
    """The share of the phase's steps that are done, 0 to 1; of the most that there can be, until the end is known."""
    generator: torch.Generator

    @property
    def deltas(self) -> Deltas:
        """The step's deltas, drawn once, with their graph."""

    def predict(self, prompt: str | None = None, *, deltas: Deltas | None = None) -> Predicted:
        """Run the network on the batch.

        Args:
            prompt: For all samples; by default each has its own.
            deltas: A teacher's, put on in place of the step's own: then nothing has a gradient.
        """

    def errors(self, predicted: Predicted) -> Tensor:
        """The mean squared error of each sample, all times counting alike, (B,)."""

    def differences(self, first: Predicted, second: Predicted) -> Tensor:
        """The mean squared difference of two predictions of each sample, (B,)."""

    def loss(self) -> Tensor:
        """Predict under each sample's own prompt, and return its loss as it is trained on, (B,)."""

    def mean(self, values: Tensor) -> Tensor:
        """The mean of one value a sample over the whole batch, wherever its parts are."""


@dataclass(frozen=True)
class Phase:
    """A part of a training: so many steps of one loss."""

    name: str
    schedule: Schedule
    loss: Callable[[Step], Losses]
    trains: ParameterGroups
    """What has gradients, and how fast it trains."""
    gradients: Callable[[], None] | None = None
    """Called with the gradients in place, instead of an optimizer's step: a Fisher matrix adds up their squares."""
    passes: int = 1
    """Predictions of each sample that the loss holds together: where memory is short, so many fewer samples are."""
    before: Mapping[int, Callable[[], None]] = field(default_factory=dict)
    """What is done before a step, by how many are done by then. It changes the trainable alone, and a run that is
    interrupted in that step does it again: twice must be the same as once."""

    def prepare(self, done: int) -> None:
        """Do what comes before the step after so many."""
        if act := self.before.get(done):
            act()


@dataclass(frozen=True)
class Learned:
    """What a training leaves."""

    deltas: Deltas
    """The increment: what is added to the weights that the task began with."""
    tokens: TokenRows
    state: State = field(default_factory=dict)
    contains: tuple[str, ...] = ()
    """The tasks whose change this increment contains, by uid: those that it goes on from."""


class Method:
    """A method with its settings."""

    name: ClassVar[str]
    paper: ClassVar[str]
    """Where it is described."""
    trained_on: ClassVar[str] = "previous"
    """What concepts are learned on: all that was learned before (`previous`), or the base alone (`pretrained`). Then
    the reference states are those of the base, and what is attached takes `Task.to_base` along."""
    prompt: ClassVar[str] = "a photo of a {token} {word}"
    """What pictures without a caption are learned under; STAMINA and C-LoRA leave out the class word. See `PROMPTS`."""
    configuration: ClassVar[type[Config]] = Config
    """What can be set."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, earlier: Sequence[Earlier], shapes: Mapping[str, Shape]) -> None:
        """Refuse what cannot be learned after these tasks, before anything is loaded.

        Args:
            earlier: The tasks.
            shapes: The targets, (D1, D2) by parameter path.

        Raises:
            UsageError: It cannot.
        """

    def attach(self, task: Task) -> Trainable:
        """Make what trains, on the CPU."""
        raise NotImplementedError

    def prompts(self, task: Task) -> PromptSource | None:
        """What gives pictures their prompts once the tasks before one are learned; None where nothing does."""
        return None

    def penalty(self, step: Step, task: Task, trainable: Trainable) -> Losses:
        """What is added to the denoising loss while the concept is learned, by name."""
        return {}

    def phases(self, task: Task, trainable: Trainable) -> Iterator[Phase]:
        """What is done, one after the other; each is asked for when the one before it is through.

        A resumed run asks for them again, up to the one that it was in, and restores `trainable` after that: what is
        done on the way there must change nothing but `trainable`.
        """
        yield self.training(task, trainable)

    def training(self, task: Task, trainable: Trainable) -> Phase:
        """The phase in which the concept is learned: the denoising loss and the penalty."""

        def loss(step: Step) -> Losses:
            denoising = step.mean(step.loss())
            return {"denoising": denoising, **self.penalty(step, task, trainable)}

        return Phase("learning", self.config.schedule(task.seed), loss, trainable.groups())

    def finish(self, task: Task, trainable: Trainable) -> Learned:
        """What is kept."""
        return Learned(trainable.folded(), trainable.tokens())
