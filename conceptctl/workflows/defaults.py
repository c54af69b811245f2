"""What is chosen for a user who chooses nothing: it belongs to the base."""

from __future__ import annotations

from dataclasses import dataclass

from conceptctl.store.manifest import Base


@dataclass(frozen=True)
class Defaults:
    """Settings that suit one kind of base."""

    steps: int
    """Denoising steps of a picture."""
    guidance: float
    """Scale of classifier-free guidance."""
    smallest_side: int | None
    """Shorter side that a training picture must have, in pixels; None means the base's own size."""
    auxiliary: int
    """Pictures of the class, drawn by the base itself, that learning is regularized with."""
    remembered: int
    """Pictures whose features are kept when a concept has been learned: what forgetting is measured against."""


POCKET = Defaults(steps=16, guidance=1.5, smallest_side=None, auxiliary=8, remembered=24)
STABLE_DIFFUSION = Defaults(steps=50, guidance=7.5, smallest_side=256, auxiliary=200, remembered=50)
"""Steps and guidance are diffusers' own defaults; 200 auxiliary pictures are DC-score's, section 4."""


def defaults_of(base: Base) -> Defaults:
    """Return the settings for a store's base."""
    return POCKET if base.name == "pocket" else STABLE_DIFFUSION
