"""All figures of one concept, from the features of its pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from conceptctl.metrics.clip_scores import clip_i2i, clip_t2i
from conceptctl.metrics.closeness import Scale
from conceptctl.metrics.continual import Sets, figures_of
from conceptctl.metrics.diversity import diversity
from conceptctl.metrics.kid import kid
from conceptctl.metrics.mmd import PolynomialKernel, RbfKernel, noise_floor

if TYPE_CHECKING:
    from torch import Tensor

KERNEL = PolynomialKernel()
CROSS_CHECK = RbfKernel()


def figures(sets: Sets, prompt: Tensor | None, scale: Scale) -> dict[str, float | None]:
    """Compute all that is said of one concept, but for the cross-check.

    Args:
        sets: Features of its pictures.
        prompt: Features of what was asked for, in words that CLIP knows, (1, D).
        scale: From the class's pictures to the held-out ones.
    """
    before = sets.after_learning
    return presentable(
        {
            **figures_of(sets, KERNEL),
            "kid": kid(sets.current, sets.heldout),
            "clip_i2i": clip_i2i(sets.current, sets.heldout),
            "clip_t2i": None if prompt is None else clip_t2i(sets.current, prompt),
            "noise_floor": noise_floor(sets.current if before is None else before, KERNEL),
            "noise_floor_heldout": noise_floor(sets.heldout, KERNEL),
            "diversity": diversity(sets.current, sets.heldout),
            "closeness": scale.places(sets.current).mean().item(),
            "closeness_learned": None if before is None else scale.places(before).mean().item(),
            "nearest_heldout": scale.high,
            "nearest_class": scale.low,
        }
    )


def cross_check(sets: Sets) -> dict[str, float | None]:
    """Compute the four MMDs with the kernel that also sees spread."""
    return presentable(figures_of(sets, CROSS_CHECK))


def kernel_settings(width: int) -> dict[str, Any]:
    """Return the five settings of the kernel, with the factor that it really has for features of D numbers."""
    return {
        "degree": KERNEL.degree,
        "gamma": 1 / width if KERNEL.gamma is None else KERNEL.gamma,
        "offset": KERNEL.offset,
        "unit_norm": KERNEL.unit_norm,
        "biased": KERNEL.biased,
    }


def presentable(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Turn what is not finite into None: JSON has no other word for it."""
    return {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}
