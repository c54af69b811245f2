"""A transformer that tells apart the classes that it has learned, and learns more, one task after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from conceptctl.learning.examples import Examples
from conceptctl.learning.loop import Listener, train
from conceptctl.learning.method import Earlier, Task, Trainable
from conceptctl.learning.processes import make_accelerator
from conceptctl.learning.weights import Deltas, shapes_of

if TYPE_CHECKING:
    from torch import Tensor

    from conceptctl.families.vit import VitBackbone
    from conceptctl.learning.checkpoint import TrainingState
    from conceptctl.learning.method import Config, Learned, Method, State
    from conceptctl.learning.prompts import Prompts
    from conceptctl.learning.weights import TokenRows

MOST_TASKS = 1000
MOST_SEEDS = 2**63
"""What generators take as a seed is below it."""
_LEAST_SPREAD = 1e-6
"""Below it pictures of a class are all alike."""
_CHANGE, _HEAD, _STATE = "change/", "head/", "state/"
"""What a learner's tensors are of."""


@dataclass(frozen=True)
class Taught:
    """What one task took."""

    steps: int
    trained: int
    """Numbers that trained beside the head."""
    kept: int
    """Numbers that are kept beside the weights and the head."""
    learned: Learned
    """What the method left; on the device."""
    curve: tuple[float, ...]
    """The loss over the training."""


class Learner:
    """A method on a backbone; all that it learned is in both."""

    def __init__(
        self, backbone: VitBackbone, method: type[Method], config: Config, *, epochs: int = 1, seed: int = 0
    ) -> None:
        """Begin with nothing learned.

        Args:
            backbone: The transformer, as it was pretrained.
            method: What learns.
            config: Its settings; its steps are those of so many epochs.
            epochs: How often each picture of a task is drawn, in the mean.
            seed: Of everything random.
        """
        self.backbone, self.method, self.config = backbone, method, config
        self.epochs, self.seed = epochs, seed
        self.names: list[str] = []
        """Every class, in the order of learning: its place is its number."""
        self.tasks = 0
        self._change: dict[str, Tensor] = {}
        self._state: State = {}
        self._prompts: Callable[[Tensor], Prompts] | None = None
        self._accelerator = make_accelerator(backbone.device)

    def learn(
        self,
        names: Sequence[str],
        pixels: Tensor,
        labels: Sequence[str],
        tell: Callable[[int, int], None] = lambda done, steps: None,
        *,
        state: TrainingState | None = None,
        save: Callable[[TrainingState], None] = lambda state: None,
    ) -> Taught:
        """Learn a task.

        Args:
            names: Its classes, which are new.
            pixels: Its pictures, as the backbone encodes them.
            labels: The class of each.
            tell: Told of the steps that are done, and of all.
            state: Where an earlier run of the same task stopped.
            save: Called now and then, and when the training is interrupted.

        Raises:
            AlreadyExists: A class was learned before.
            DeviceFailed: The loss is no number any more.
        """
        nothing = self.backbone.token_start()
        numbers = [self.backbone.add_token(name, nothing) for name in names]
        steps, batch = steps_of(self.config, self.epochs, len(labels))
        method = self.method(replace(self.config, steps=steps, batch_size=batch))
        task = self._task(method)
        start = self._start(method.attach(task).to(self.backbone.device), names, pixels, labels)
        task = replace(task, token_start=start)
        trainable = method.attach(task).to(self.backbone.device)
        told = Listener(step=lambda done: tell(done, steps), save=save)
        examples = Examples(pixels, labels, len(labels))
        end = train(
            self.backbone, numbers, method, task, trainable, examples,
            accelerator=self._accelerator, state=state, listener=told,
        )  # fmt: skip
        with torch.no_grad():
            learned = method.finish(task, trainable)
            self._take(learned, numbers, names)
        self._prompts = _asked(trainable)
        head = sum(each.numel() for each in trainable.token.parameters())
        trained = sum(each.numel() for each in trainable.parameters() if each.requires_grad) - head
        kept = sum(each.numel() for each in self._state.values())
        return Taught(steps, trained, kept, learned, tuple(end.curve))

    def classify(self, pixels: Tensor) -> Tensor:
        """The probability of each class that was learned, (N, C), whatever its task."""
        with self.backbone.prompted(self._prompts) if self._prompts else nullcontext():
            return self.backbone.classify(pixels)

    def tensors(self) -> dict[str, Tensor]:
        """All that was learned, for `restore`."""
        heads = {f"{_HEAD}{table}": module.weight for table, module in self.backbone.token_tables().items()}
        change = {_CHANGE + path: each for path, each in self._change.items()}
        state = {_STATE + name: each for name, each in self._state.items()}
        return {name: each.detach().cpu().contiguous() for name, each in {**heads, **change, **state}.items()}

    def restore(self, tensors: Mapping[str, Tensor], names: Sequence[str], tasks: int) -> None:
        """Put back what was learned in so many tasks, in a learner that has learned nothing."""
        change = _named(tensors, _CHANGE)
        self._add({path: each.to(self.backbone.device) for path, each in change.items()})
        self.go_on(names, _named(tensors, _HEAD), tasks, _named(tensors, _STATE), self._change)

    def go_on(
        self, names: Sequence[str], rows: TokenRows, tasks: int, state: State, change: Mapping[str, Tensor]
    ) -> None:
        """Go on from tasks whose deltas the backbone's weights have already.

        Args:
            names: Every class, in the order of learning.
            rows: Their rows of the head, (C, D + 1) by table.
            tasks: How many tasks they were learned in.
            state: What the last of them left.
            change: By how much the targets have changed in all, by path; of all of them, or of none.
        """
        for table in self.backbone.token_tables():
            for name, row in zip(names, rows[table].split(1), strict=True):
                self.backbone.add_token(name, {table: row})
        self.names, self.tasks = list(names), tasks
        self._state, self._change = dict(state), dict(change)
        method = self.method(self.config)
        prompts = method.prompts(self._task(method)) if tasks else None
        if prompts is not None:
            trainable = Trainable(None, nn.Identity(), 0.0, prompts).to(self.backbone.device)
            self._prompts = _asked(trainable)

    @torch.no_grad()
    def _start(self, attached: Trainable, names: Sequence[str], pixels: Tensor, labels: Sequence[str]) -> TokenRows:
        """Where the head's rows begin, (C, D + 1) by table, with what is attached and has not trained yet.

        They are those of a linear discriminant with one variance for all classes and directions (Fisher 1936): the loss
        compares classes of one task alone, and what begins anywhere else says nothing of how others compare.
        """
        self.backbone.freeze()
        with self.backbone.prompted(attached.prompts):
            features = self.backbone.all_features(pixels)
        groups = [features[[label == name for label in labels]] for name in names]
        means = torch.stack([group.mean(0) for group in groups])
        spread = torch.cat([group - mean for group, mean in zip(groups, means, strict=True)]).square().mean()
        weights = means / spread.clamp_min(_LEAST_SPREAD)
        biases = -0.5 * (weights * means).sum(1, keepdim=True)
        rows = torch.cat([weights, biases], 1).cpu()
        return dict.fromkeys(self.backbone.token_tables(), rows)

    def _task(self, method: Method) -> Task:
        targets = self.backbone.targets()
        earlier = [Earlier(str(number), "") for number in range(self.tasks)]
        if earlier:
            earlier[-1] = replace(earlier[-1], state=lambda: self._state)
        changed = self._change and method.config.needs_change
        return Task(
            shapes_of(targets),
            self.backbone.token_start(),
            earlier=earlier,
            change=Deltas.of({path: self._change[path].abs() for path in targets}) if changed else Deltas(),
            seed=(self.seed * MOST_TASKS + self.tasks) % MOST_SEEDS,
            layers=self.backbone.layers,
        )

    def _take(self, learned: Learned, numbers: Sequence[int], names: Sequence[str]) -> None:
        for table, rows in learned.tokens.items():
            for number, row in zip(numbers, rows.split(1), strict=True):
                self.backbone.set_token(number, {table: row})
        self._add(learned.deltas)
        self._state = {name: each.cpu() for name, each in learned.state.items()}
        self.names += names
        self.tasks += 1

    def _add(self, deltas: Mapping[str, Tensor]) -> None:
        """Add deltas to the weights, and to all that was added before."""
        targets = self.backbone.targets()
        self.backbone.set_weights({path: targets[path].weight + delta for path, delta in deltas.items()})
        self._change |= {path: self._change.get(path, 0) + delta.detach() for path, delta in deltas.items()}


def steps_of(config: Config, epochs: int, pictures: int) -> tuple[int, int]:
    """How many steps so many epochs are, and how many pictures are in each."""
    batch = min(config.batch_size, pictures)
    return -(-epochs * pictures // batch), batch


def _asked(trainable: Trainable) -> Callable[[Tensor], Prompts] | None:
    """What gives pictures of any task their prompts, where prompts were learned."""
    prompts = trainable.prompts
    return None if prompts is None else prompts.of_any_task


def _named(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    return {name.removeprefix(kind): each for name, each in tensors.items() if name.startswith(kind)}
