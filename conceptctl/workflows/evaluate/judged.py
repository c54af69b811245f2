"""The judge of a base's pictures, where it has one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from conceptctl.presets import BUNDLED, preset_of
from conceptctl.store.manifest import Base

if TYPE_CHECKING:
    from PIL import Image

    from conceptctl.pocket.seen import Seen

    Sees = Callable[[Sequence[Image.Image], Sequence[Image.Image]], Seen | None]


def judge_of(base: Base) -> Sees | None:
    """Return what compares drawn pictures with held-out ones detail by detail; None where a base has no judge."""
    if preset_of(base).learn.judge != BUNDLED:
        return None
    from conceptctl import pocket
    from conceptctl.pocket.seen import look

    judge = pocket.load_judge()
    return lambda heldout, drawn: look(judge, heldout, drawn)
