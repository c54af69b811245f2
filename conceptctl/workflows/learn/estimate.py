"""What a run will take, known before anything runs: by what concepts of this store took, and else not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from conceptctl import families
from conceptctl.presets import Sampling, preset_of
from conceptctl.store import base
from conceptctl.store.concept import Record
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store
from conceptctl.workflows.learn import auxiliary, coherence
from conceptctl.workflows.learn.cost import Stage, samples_of, stages_of, training_share
from conceptctl.workflows.learn.earlier import earlier_records
from conceptctl.workflows.learn.pace import TRAINED_AS_DRAWN
from conceptctl.workflows.learn.plan import Plan

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Estimate:
    """What a run will take; None for what cannot be known.

    Attributes:
        like: The concept by which time and memory are told; "" where none was learned here on such a device.
        seconds_a_step: As it was measured with that concept, for a step of this run's size.
        seconds: Of the whole run: of all its stages.
        memory: The most bytes at once, on the GPU or beside it, as that concept took.
        least_memory: Bytes of the base alone; more than that is needed.
        size: Bytes that the store grows by: as the last concept of the method takes, or at most.
        size_like: The concept whose file is as large; "" where it is the most that there can be.
        to_draw: Pictures of the class that are drawn first; 0 where the store has them.
        stages: What the run is made of.
        training_share: The share of its passes through the network that is training, 0 to 1.
    """

    like: str
    seconds_a_step: float | None
    seconds: float | None
    memory: int | None
    least_memory: int
    size: int | None
    size_like: str
    to_draw: int
    stages: tuple[Stage, ...]
    training_share: float


def estimate(store: Store, planned: Plan, *, replaces: bool = False) -> Estimate:
    """Say what a plan will take.

    Args:
        store: The store.
        planned: The plan.
        replaces: Whether a concept leaves for it, so that others get new weights.
    """
    head = store.head()
    earlier = earlier_records(store, head)
    alike = [(concept, record) for concept, record in earlier if _is_measured_alike(record, planned)]
    # The newest of the same method, or else the newest.
    like = max(alike, key=lambda each: each[1].method == planned.method, default=None)
    to_draw = 0 if _are_there(store, head, planned) else planned.auxiliary
    to_compare = planned.compared if coherence.known(store, head) is None else 0
    pace = _seconds_a_step(like[1].settings, planned) if like else None
    preset = preset_of(head.base)
    stages = stages_of(planned, preset.evaluations_a_picture, to_draw, to_compare)
    if like and pace is not None:
        stages = _timed(stages, like[1].settings, planned, preset.drawing, pace)
    seconds = [stage.seconds for stage in stages if stage.seconds is not None]
    small = next((each for each in earlier if _has_same_size(each[1], planned)), None)
    size = small[0].blob.size if small else _most(store, head, planned)
    # Without the one that leaves, the others need weights of their own.
    weights = _targets(store, head) * FLOAT_BYTES if replaces and len(head.concepts) > 1 else 0
    return Estimate(
        like=like[0].name if like else "",
        seconds_a_step=pace,
        seconds=sum(seconds) if len(seconds) == len(stages) else None,
        memory=_memory(like[1].settings, planned) if like else None,
        least_memory=_weights(store, head, planned),
        size=None if size is None else size + weights,
        size_like=small[0].name if small else "",
        to_draw=to_draw,
        stages=tuple(stages),
        training_share=training_share(stages),
    )


def steps_a_picture(store: Store, head: Generation, planned: Plan) -> float | None:
    """How many of a plan's steps drawing a picture is worth, by an earlier concept; None where none says."""
    for _, record in earlier_records(store, head):
        said = record.settings
        if _is_measured_alike(record, planned) and _is_positive(said.get("seconds_a_picture")):
            return float(said["seconds_a_picture"] / _seconds_a_step(said, planned))
    return None


def _is_measured_alike(record: Record, planned: Plan) -> bool:
    said = record.settings
    return (
        said.get("trained_on") == planned.device.partition(":")[0]
        and said.get("precision") == planned.precision
        and _is_positive(said.get("seconds_a_step"))
        and all(_is_positive(said.get(name)) for name in ("batch_size", "accumulation"))
    )


def _is_positive(value: Any) -> bool:
    # A record may be from a file of somebody else's.
    return type(value) in (int, float) and 0 < value < 1e12


def _samples(settings: Mapping[str, Any]) -> float:
    """How many samples a step has."""
    beside = settings.get("auxiliary_batch", 0)
    return float((settings["batch_size"] + (beside if _is_positive(beside) else 0)) * settings["accumulation"])


def _seconds_a_step(said: Mapping[str, Any], planned: Plan) -> float:
    return float(said["seconds_a_step"] * _samples(planned.config) / _samples(said))


def _timed(
    stages: Sequence[Stage], said: Mapping[str, Any], planned: Plan, sampling: Sampling, pace: float
) -> list[Stage]:
    """Say of stages what they take, by what a concept before took: what drawing takes is not known where none drew."""
    a_picture: Any = said.get("seconds_a_picture")
    steps: Any = said.get("reference_steps")
    drawn = float(a_picture) if _is_positive(a_picture) else None
    if drawn is not None and _is_positive(steps):
        drawn *= sampling.steps / float(steps)
    an_evaluation = pace / (TRAINED_AS_DRAWN * samples_of(planned.config))

    def seconds(stage: Stage) -> float | None:
        if stage.name.startswith("drawing"):
            return None if drawn is None else stage.units * drawn
        return stage.evaluations * an_evaluation

    return [replace(stage, seconds=seconds(stage)) for stage in stages]


def _memory(said: Mapping[str, Any], planned: Plan) -> int | None:
    """What was needed, where a step was no smaller."""
    portion = {name: planned.config.get(name, 0) for name in ("batch_size", "auxiliary_batch", "rank")}
    is_as_large = all(type(said.get(name, 0)) is int and said.get(name, 0) >= value for name, value in portion.items())
    found = said.get("peak_memory")
    return int(found) if is_as_large and found is not None and _is_positive(found) else None


def _are_there(store: Store, head: Generation, planned: Plan) -> bool:
    if not planned.auxiliary:
        return True
    word, count, side = planned.class_word, planned.auxiliary, planned.auxiliary_side
    found = auxiliary.find(store.layout, head, word, count, head.attachments, side)
    return found is not None


def _weights(store: Store, head: Generation, planned: Plan) -> int:
    """Bytes of the base's numbers as they are held: two each on a GPU in bf16, else four."""
    infos = [info for _, _, info in base.tensors(store.layout, head.base).values()]
    halved = planned.device.startswith("cuda") and planned.precision != "no"
    return sum(_count(info.shape) for info in infos) * (FLOAT_BYTES // 2 if halved else FLOAT_BYTES)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def _has_same_size(record: Record, planned: Plan) -> bool:
    return record.method == planned.method and record.settings.get("rank") == planned.config.get("rank")


def _most(store: Store, head: Generation, planned: Plan) -> int | None:
    """Bytes of a delta in which every weight changes; None for a method that keeps a state besides."""
    if planned.later:
        return None
    weights = _targets(store, head)
    return weights * FLOAT_BYTES + weights // 8


def _targets(store: Store, head: Generation) -> int:
    """How many weights deltas go on."""
    family = families.facts_of(head.base)
    found = base.tensors(store.layout, head.base)
    return sum(_count(info.shape) for path, (_, _, info) in found.items() if family.is_target(path))
