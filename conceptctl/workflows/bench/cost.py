"""What a benchmark costs: cells, concepts, steps and pictures, and about how long that takes on the bundled base."""

from __future__ import annotations

from dataclasses import dataclass

from conceptctl.presets import Preset, shipped
from conceptctl.workflows.bench.cells import evaluation_times, method_of
from conceptctl.workflows.bench.classification.spec import ClassSpec
from conceptctl.workflows.bench.spec import Entry, Spec

SECONDS_A_SAMPLE = 0.075
"""Of training: one picture in one step on the bundled base, on one core with AVX2 alone; 0.035 on one that is fast in
bf16."""
SHARE_WITHOUT_GRADIENTS = 1 / 3
"""What a prediction without gradients takes of one with them."""
SECONDS_A_DENOISING_STEP = 0.015
"""Of one picture, guidance included."""
SECONDS_BESIDES = 8.0
"""Of a concept: loading, where importance sampling looks, features, files."""
PREDICTIONS = 6
"""Of a batch of the Fisher matrix: one, and as many as there are classes in a score."""


@dataclass(frozen=True)
class Cost:
    """What a spec asks for."""

    cells: int
    learned: int
    """Concepts, or tasks, over all cells; of a joint training each, for it has as many steps."""
    drawn: int
    """Pictures, over all cells."""
    hours: float | None
    """Of one core, about; None where the base is not the bundled one, or the number of concepts is not known."""


def cost_of(spec: Spec | ClassSpec) -> Cost | None:
    """Return what a spec costs; None where its folder alone knows how many concepts there are."""
    return _of_classes(spec) if isinstance(spec, ClassSpec) else _of_concepts(spec)


def _of_classes(spec: ClassSpec) -> Cost:
    """What a comparison of classifiers costs, which learns tasks and draws nothing."""
    learned = sum(1 if entry.joint else spec.data.tasks_learned for entry in spec.entries) * len(spec.seeds)
    return Cost(len(spec.entries) * len(spec.seeds), learned, 0, None)


def _samples(spec: Spec, entry: Entry, preset: Preset) -> float:
    """Pictures that one concept's training predicts the noise of, all phases included; `auto` may stop it sooner."""
    config = method_of(spec, entry, preset).config
    steps = config.steps + sum(
        each.steps * (each.trained + SHARE_WITHOUT_GRADIENTS * each.plain) for each in config.later()
    )
    return steps * (config.batch_size + config.auxiliary_batch) * config.accumulation


def _of_concepts(spec: Spec) -> Cost | None:
    count = spec.data.concepts
    if count is None:
        return None
    preset = next((each for each in shipped().values() if each.base == spec.base), None)
    protocol = spec.protocol
    pictures = protocol.pictures or (preset.learn.reference_samples if preset else 50)
    cells = len(spec.entries) * len(spec.seeds)
    learned = cells * count
    again = sum(time - 1 for time in evaluation_times(count, protocol.evaluations))
    sequences = sum(entry.in_sequence for entry in spec.entries) * len(spec.seeds)
    drawn = (learned + sequences * again) * pictures + sequences * min(protocol.pairs, count - 1) * 8
    hours = None
    if preset:
        settings = preset.settings("")
        samples = sum(_samples(spec, entry, preset) for entry in spec.entries) * len(spec.seeds) * count
        seconds = learned * SECONDS_BESIDES + samples * SECONDS_A_SAMPLE
        seconds += drawn * (protocol.sampling_steps or preset.sampling.steps) * SECONDS_A_DENOISING_STEP
        # Every picture so far under every prompt so far; and batches with the scores, and without them.
        classified = spec.data.train * sum(time**2 for time in evaluation_times(count, protocol.evaluations))
        probed = protocol.fisher * (protocol.batch_size or settings["batch_size"]) * PREDICTIONS
        seconds += sequences * (protocol.classified * classified / 2 + probed) * SECONDS_A_SAMPLE
        hours = seconds / 3600
    return Cost(cells, learned, drawn, hours)
