"""When a concept is learned: a loss that can be compared from step to step, and the rule that ends a training by it.

The loss of a training step tells little, for every step draws other pictures, noise and times. With all three fixed it
falls while a concept is learned and then stays (Voronov et al. 2023, "Is this loss informative? Faster text-to-image
customization by tracking objective dynamics", section 3.2). They stop where its variance over the last steps is a small
share of that over all of them; here a line is laid through the last steps, which tells a slow fall from noise, and
learning rates fall to nothing before the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from conceptctl.learning.processes import part_of

if TYPE_CHECKING:
    from accelerate import Accelerator

    from conceptctl.learning.backbone import Conditions, Noised, Objective
    from conceptctl.learning.examples import Examples

STOPPINGS = ("fixed", "auto")
"""What ends a training: a number of steps, or that the concept is learned."""

CONCEPT_SAMPLES, CLASS_SAMPLES = 16, 8
"""Samples of the fixed sets, about: each picture of up to eight at two times and more, spread over all."""
COST = 0.05
"""The share of a training's time that looking may take; how often it looks follows from it."""
_TRAINED_AS_LOOKED = 2
"""Passes through the network that training on a sample is worth."""
LEAST_LOOKS = 20
"""How often a training of the largest number of steps is looked at, however dear that is."""
WINDOW = 0.5
"""The share of all looks, the last ones, through which the line is laid: what takes long to begin takes long to end."""
LEAST_WINDOW = 5
"""Looks that make a line."""
SETTLED = 0.1
"""What the loss may still fall over the window, as a share of all that it fell."""
DECAY = 0.25
"""Steps over which learning rates fall to nothing at the end, as a share of those before: a fifth of all."""
LEAST_FALL = 0.03
"""The share of its start that the loss falls at least where something is learned."""
LEAST_PATIENCE = 0.5
"""The share of the bound that is trained at least before it is said that nothing is learned."""
_DRAWS = 16
"""Noises and times that are drawn for each picture, of which those are taken whose times are spread evenly."""


@dataclass(frozen=True)
class FixedSet:
    """Samples whose pictures, noises and times are the same whenever their loss is asked for."""

    objective: Objective
    indices: Tensor
    """Of the examples, (N,), on the CPU."""
    noised: Noised

    @classmethod
    def of(cls, objective: Objective, indices: Tensor, latents: Tensor, count: int) -> FixedSet:
        """Draw noises and times for some pictures.

        Every picture comes equally often, at times that are spread evenly over those that the objective draws.

        Args:
            objective: Which corrupts them.
            indices: Of n examples, on the CPU.
            latents: Of these, (n, C, H, W).
            count: How many samples there are to be at least.
        """
        generator = torch.Generator().manual_seed(0)
        drawn = [objective.corrupt(latents, generator) for _ in range(_DRAWS)]
        times = torch.stack([each.timesteps for each in drawn]).double().cpu()
        pictures = len(indices)
        samples = -(-count // pictures) * pictures
        places = ((torch.arange(samples) + 0.5) / samples * times.numel()).long()
        wanted = times.flatten().sort().values[places]
        nearest = [(times[:, at % pictures] - time).abs().argmin().item() for at, time in enumerate(wanted)]
        parts = [
            objective.part_of(drawn[int(draw)], slice(at % pictures, at % pictures + 1))
            for at, draw in enumerate(nearest)
        ]
        return cls(objective, indices.repeat(samples // pictures), _together(parts))

    @torch.no_grad()
    def loss(self, conditions: Conditions, portion: int, accelerator: Accelerator) -> float:
        """The mean loss with the deltas and token rows that are in place; the same in all processes.

        Args:
            conditions: Of the examples.
            portion: How many samples go through the network together.
            accelerator: The run's.
        """
        own = part_of(accelerator, len(self.indices))
        total = torch.zeros((), device=accelerator.device)
        for begin in range(own.start, own.stop, portion):
            part = slice(begin, min(begin + portion, own.stop))
            noised = self.objective.part_of(self.noised, part)
            predicted = self.objective.predict(noised, conditions.of_examples(self.indices[part]))
            total += self.objective.loss(predicted, noised).sum()
        if accelerator.num_processes > 1:
            total = accelerator.reduce(total, "sum")
        return total.item() / len(self.indices)


def _together(parts: Sequence[Noised]) -> Noised:
    """Samples as one batch."""
    kind: Any = type(parts[0])
    return kind(*(torch.cat([getattr(part, each.name) for part in parts]) for each in fields(kind)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class FixedSets:
    """What a training is looked at with: the concept's pictures, and those of its class under the class's prompt."""

    concept: FixedSet
    beside: FixedSet | None
    """What a concept's training may spoil; None where it has no auxiliary pictures."""

    @classmethod
    def of(cls, objective: Objective, examples: Examples) -> FixedSets:
        """Draw them, from examples and the objective that they are trained on with all times alike."""
        concept = FixedSet.of(objective, *examples.shown(), CONCEPT_SAMPLES)
        beside = examples.shown_beside()
        return cls(concept, FixedSet.of(objective, *beside, CLASS_SAMPLES) if beside else None)

    def __len__(self) -> int:
        """How many samples they have."""
        return len(self.concept.indices) + (len(self.beside.indices) if self.beside else 0)

    def losses(self, conditions: Conditions, portion: int, accelerator: Accelerator) -> tuple[float, float | None]:
        """The loss on both; see `FixedSet.loss`."""
        beside = self.beside.loss(conditions, portion, accelerator) if self.beside else None
        return self.concept.loss(conditions, portion, accelerator), beside


def steps_between(looked_at: int, samples: int, most: int) -> int:
    """After how many steps a training is looked at again.

    Args:
        looked_at: Samples of the fixed sets.
        samples: Samples of a step.
        most: The largest number of steps.
    """
    within_cost = math.ceil(looked_at / (COST * _TRAINED_AS_LOOKED * samples))
    return max(1, min(within_cost, most // LEAST_LOOKS))


@dataclass(frozen=True)
class Look:
    """What was seen after so many steps."""

    step: int
    loss: float
    """On the concept's pictures."""
    class_loss: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How a training ended that ends by itself."""

    steps: int
    most: int
    reason: str
    """`learned`, `bound` (the loss was still falling) or `nothing` (it hardly fell)."""
    start: Look
    kept: Look
    """The state that is kept: the last one, or one before that was better."""


class StoppingRule:
    """Decides by the losses of a phase when it ends. Numbers only: a curve can be replayed.

    Learning rates stay as they are until the loss has settled, and then fall along a line to nothing; at the latest so
    that they are there after the largest number of steps.
    """

    def __init__(self, most: int, phase: int = 0, since: int = 0) -> None:
        """Begin.

        Args:
            most: The largest number of steps.
            phase: The place among all phases of the one that it ends.
            since: The step up to which what trains is not yet what will be kept: looks after that count.
        """
        self.most, self.phase, self.since = most, phase, since
        self.looks: list[Look] = []
        self.settled = False
        self.decay_begins = max(0, math.floor(most / (1 + DECAY)))
        """The step from which on learning rates fall."""

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> StoppingRule:
        """Go on from what `state` returned."""
        rule = cls(state["most"], state["phase"], state["since"])
        for each in state["looks"]:
            rule.observe(Look(*each))
        return rule

    def state(self) -> dict[str, Any]:
        """All that it knows, for JSON."""
        return {
            "most": self.most,
            "phase": self.phase,
            "since": self.since,
            "looks": [[each.step, each.loss, each.class_loss] for each in self.looks],
        }

    @property
    def length(self) -> int:
        """Steps of the phase, as far as is known."""
        return min(self.most, math.ceil(self.decay_begins * (1 + DECAY))) if self.settled else self.most

    def factor(self, done: int) -> float:
        """What learning rates are multiplied with in the step after so many."""
        if done < self.decay_begins:
            return 1.0
        return max(0.0, (self.length - done) / max(1, self.length - self.decay_begins))

    def observe(self, look: Look) -> None:
        """Take in what was seen, and decide whether the end begins."""
        self.looks.append(look)
        if not self.settled and 0 < look.step < self.decay_begins and self._has_settled():
            self.settled, self.decay_begins = True, look.step

    def _has_settled(self) -> bool:
        counted = self._counted()
        window = counted[-max(LEAST_WINDOW, math.ceil(WINDOW * len(counted))) :]
        if len(counted) < 2 * LEAST_WINDOW or self.looks[-1].step <= self.since:
            return False
        fallen = self.looks[0].loss - sum(each.loss for each in window) / len(window)
        if fallen < LEAST_FALL * self.looks[0].loss and self.looks[-1].step < LEAST_PATIENCE * self.most:
            return False
        return _fall(window) < SETTLED * max(fallen, LEAST_FALL * self.looks[0].loss)

    def _counted(self) -> list[Look]:
        """The looks that count; all of them as long as none does."""
        return [each for each in self.looks if each.step > self.since or not self.since] or self.looks

    @property
    def best(self) -> Look:
        """Where the loss was least."""
        return min(self._counted(), key=lambda look: look.loss)

    @property
    def kept(self) -> Look:
        """Where what is kept was: at the best look, where that of the last one is worse by more than noise."""
        last = self.looks[-1]
        before = [each.loss for each in self._counted() if each.step <= self.decay_begins]
        changes = sorted(abs(after - loss) for loss, after in pairwise(before))
        noise = changes[len(changes) // 2] if changes else 0.0
        return self.best if last.loss > self.best.loss + noise else last

    def outcome(self) -> Outcome:
        """How the phase ended."""
        start, kept = self.looks[0], self.kept
        # The least of many noisy losses is low by chance: the mean of the last ones is taken.
        last = [look.loss for look in self._counted() if look.step <= kept.step][-LEAST_WINDOW:]
        learned = start.loss - sum(last) / len(last) >= LEAST_FALL * start.loss
        reason = "nothing" if not learned else "learned" if self.settled else "bound"
        return Outcome(self.length, self.most, reason, start, kept)


def _fall(looks: Sequence[Look]) -> float:
    """By how much losses fall from the first of some looks to the last, along the line of least squares."""
    middle = sum(each.step for each in looks) / len(looks)
    moment = sum((each.step - middle) ** 2 for each in looks)
    slope = sum((each.step - middle) * each.loss for each in looks) / moment
    return -slope * (looks[-1].step - looks[0].step)
