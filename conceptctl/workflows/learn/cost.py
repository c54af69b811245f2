"""What a run is made of: its stages, and what each costs in passes of a sample through the network."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from conceptctl.workflows.learn.coherence import DRAWING
from conceptctl.workflows.learn.pace import TRAINED_AS_DRAWN, in_whole_batches
from conceptctl.workflows.learn.plan import Plan
from conceptctl.workflows.learn.request import Watch

LOSS_BATCHES = 4
"""Batches on which a mask's loss with noise is compared with its loss without."""


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes:
        name: What it is called.
        units: How much of it there is.
        unit: What that is: a picture, a step, a batch.
        evaluations: Passes of one sample through the network, about: training on one is worth two, encoding a picture
            one.
        seconds: What that takes, by a concept that was learned before; None where none says.
    """

    name: str
    units: int
    unit: str
    evaluations: int
    seconds: float | None = None


def samples_of(config: Mapping[str, Any]) -> int:
    """How many samples a step has."""
    return int((config["batch_size"] + config.get("auxiliary_batch", 0)) * config["accumulation"])


def stages_of(planned: Plan, a_picture: int, to_draw: int, to_compare: int = 0) -> list[Stage]:
    """The stages of a plan, in their order.

    Args:
        planned: The plan.
        a_picture: Passes that drawing one takes.
        to_draw: Pictures of the class that the store has not.
        to_compare: Pictures of different things that it has not.
    """
    from conceptctl.parts.stack_and_mask import NO_MASK

    config = planned.config
    samples, beside, others = samples_of(config), in_whole_batches(to_draw), in_whole_batches(to_compare)
    found = [
        Stage(DRAWING, others, "picture", others * a_picture),
        Stage(f"drawing {planned.class_word} pictures to learn beside", beside, "picture", beside * a_picture),
        Stage("encoding the pictures", planned.pictures, "picture", planned.pictures),
        Stage("learning", config["steps"], "step", config["steps"] * samples * TRAINED_AS_DRAWN),
    ]
    for later in planned.later:
        passes = later.trained * TRAINED_AS_DRAWN + later.plain
        found.append(Stage(later.name, later.steps, "step", later.steps * config["batch_size"] * passes))
    if config.get("mask", NO_MASK) != NO_MASK:
        compared = 2 * LOSS_BATCHES
        together = config["batch_size"] + config.get("auxiliary_batch", 0)
        found.append(Stage("comparing the loss with masks", compared, "batch", compared * together))
    drawn = in_whole_batches(planned.reference_samples)
    found.append(Stage("drawing reference samples", drawn, "picture", drawn * a_picture))
    return [stage for stage in found if stage.units]


def telling_ahead(watch: Watch, a_picture: int, after: int) -> Watch:
    """While pictures are drawn, tell also about how long what comes after them takes, by the pace of the drawing.

    Args:
        watch: Who is told.
        a_picture: Passes through the network that drawing one takes.
        after: Passes that come after all of them.
    """
    began: list[float] = []
    drawn = 0

    def advance(done: int) -> None:
        nonlocal drawn
        watch.advance(done)
        now = time.monotonic()
        # The first of all is what an interrupted run had drawn.
        if not began:
            began.append(now)
            return
        drawn += done
        watch.ahead((now - began[0]) / (drawn * a_picture) * after)

    return replace(watch, advance=advance)


def training_share(stages: Sequence[Stage]) -> float:
    """The share of all evaluations that is training."""
    training = sum(stage.evaluations for stage in stages if stage.unit == "step")
    return training / sum(stage.evaluations for stage in stages)
