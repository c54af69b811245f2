"""What pictures of a concept are worth: figures from their features, and what the judge reads off them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from conceptctl.metrics.clip_scores import clip_i2i, clip_t2i
from conceptctl.metrics.continual import Sets, figures_of
from conceptctl.metrics.diversity import diversity
from conceptctl.metrics.kid import kid
from conceptctl.metrics.mmd import noise_floor
from conceptctl.presets import BUNDLED, preset_of
from conceptctl.store.manifest import Base
from conceptctl.workflows.evaluate.figures import KERNEL, presentable

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from conceptctl.pocket.judge import Judge, Reading
    from conceptctl.pocket.world.kinds import Subject

LABELS: Mapping[str, str] = {
    "A_mmd": "A_mmd",
    "F_mmd": "F_mmd",
    "P_mmd": "P_mmd",
    "BwT_mmd": "BwT_mmd",
    "kid": "KID",
    "clip_i2i": "CLIP I2I",
    "clip_t2i": "CLIP T2I",
    "diversity": "diversity",
    "noise_floor": "noise floor",
    "success": "judge's success",
    "attributes": "attributes right",
}
"""Figures of one concept, by what people call them."""
COSTS = (
    "n_param_trained", "n_param_trained_with_token", "n_param_stored", "changed", "density", "stored_bytes",
    "seconds_a_step", "seconds", "peak_memory",
)  # fmt: skip
"""What a task took, of which the mean over tasks is said."""
LARGER_IS_BETTER = {"BwT_mmd", "clip_i2i", "clip_t2i", "success", "attributes"}


def open_judge(base: Base) -> Judge | None:
    """Return what reads pictures of a base's concepts; None where there is none."""
    if preset_of(base).learn.judge != BUNDLED:
        return None
    from conceptctl import pocket

    return pocket.load_judge()


def figures(heldout: Tensor, learned: Tensor, current: Tensor, prompt: Tensor | None = None) -> dict[str, float | None]:
    """Compute a concept's figures.

    Args:
        heldout: Features of real pictures (M, D).
        learned: Features of what was drawn just after learning (N, D).
        current: Features of what is drawn now, from the same seeds (N, D).
        prompt: Features of the prompt in words that CLIP knows (1, D); None where there are none.

    Returns:
        By the keys of `LABELS`, but for what only a judge can say.
    """
    return presentable(
        {
            **figures_of(Sets(heldout, learned, current), KERNEL),
            "kid": kid(current, heldout),
            "clip_i2i": clip_i2i(current, heldout),
            "clip_t2i": None if prompt is None else clip_t2i(current, prompt),
            "diversity": diversity(current, heldout),
            "noise_floor": noise_floor(learned, KERNEL),
        }
    )


def read(judge: Judge, pictures: Sequence[Image.Image]) -> list[Reading]:
    """What the judge reads off pictures of its size."""
    import torch

    from conceptctl.pocket.train.data import to_signed, to_tensor

    return judge.read(to_signed(to_tensor([each.convert("RGB") for each in pictures]), torch.device("cpu")))


def judged(judge: Judge | None, subject: Subject | None, pictures: Sequence[Image.Image]) -> dict[str, float | None]:
    """The share of pictures that show an identity, and of its attributes that are read right in all of them."""
    if judge is None or subject is None:
        return {"success": None, "attributes": None}
    readings = read(judge, pictures)
    wanted = subject.shown()
    right = 0
    for reading in readings:
        seen = next((each.shown() for each in reading.subjects if each.kind == subject.kind), {})
        right += sum(seen.get(name) == value for name, value in wanted.items())
    return {
        "success": sum(reading.shows(subject) for reading in readings) / len(readings),
        "attributes": right / (len(wanted) * len(readings)),
    }


def judged_pair(judge: Judge | None, subjects: Sequence[Subject | None], pictures: Sequence[Image.Image]) -> Any:
    """The share of pictures that show both of two identities, each in a place of its own; None without a judge."""
    known = [subject for subject in subjects if subject is not None]
    if judge is None or len(known) < len(subjects):
        return None
    return sum(reading.shows_all(known) for reading in read(judge, pictures)) / len(pictures)
