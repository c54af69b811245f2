"""What `generate` is asked for, judged before anything expensive."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from conceptctl import families
from conceptctl.errors import NotFound, UsageError
from conceptctl.store import base
from conceptctl.store.manifest import Base
from conceptctl.store.store import Store

MOST_SEEDS = 2**63
MOST_STEPS = 1000
"""The noise schedules of every base that there is have a thousand."""
RANGE = 4
"""How many times smaller, and larger, a side may be than that of the base's own pictures."""
USUAL = 2
"""How many times smaller or larger an area may be without a warning."""
_SIZE = re.compile(r"\s*([0-9]{1,6})\s*[xX\u00d7]\s*([0-9]{1,6})\s*")


@dataclass(frozen=True)
class Request:
    """What to draw, and how. `None`, or no sampler, leaves the choice to the base."""

    prompt: str
    count: int = 1
    seed: int = 0
    """Seed of the first picture; picture i has seed + i."""
    steps: int | None = None
    guidance: float | None = None
    negative: str = ""
    prompt_only: bool = False
    """Whether to draw from the prompt alone, as programs do that know only diffusers: see `compose`."""
    at: int | None = None
    """The generation to draw with; the newest by default."""
    metadata: bool = True
    """Whether the files say how they were made."""
    size: tuple[int, int] | None = None
    """Width and height in pixels."""
    sampler: str = ""
    """One of `diffusion.samplers.SAMPLERS`."""
    batch_size: int = 1
    """How many pictures are drawn together: faster on a GPU, and the same pictures but for rounding."""
    low_vram: bool = False
    """Whether to keep off the device what is not at work."""


def parse_size(text: str) -> tuple[int, int]:
    """Read a size: "768x512" is 768 wide and 512 high.

    Raises:
        UsageError: It is none.
    """
    match = _SIZE.fullmatch(text)
    if not match:
        square = text.strip()
        example = f"{square}x{square}" if square.isdecimal() else "768x512"
        raise UsageError(f"a size cannot be {text!r}", hint=f"--size {example}: width and height in pixels")
    return int(match[1]), int(match[2])


def check(request: Request) -> None:
    """Refuse numbers that cannot be meant.

    Raises:
        UsageError: One of them.
        NotFound: There is no such generation.
    """
    if request.count < 1 or (request.steps is not None and request.steps < 1):
        raise UsageError("pictures and steps are counted from 1")
    if request.batch_size < 1:
        raise UsageError("a batch has at least one picture", hint="--batch-size 4")
    if request.steps is not None and request.steps > MOST_STEPS:
        raise UsageError(f"there are at most {MOST_STEPS} steps, not {request.steps}")
    if request.guidance is not None and not math.isfinite(request.guidance):
        raise UsageError(f"guidance cannot be {request.guidance}", hint="--guidance 7.5; 1 or less is none")
    if not 0 <= request.seed <= MOST_SEEDS - request.count:
        raise UsageError("a seed is a number from 0 to 2^63")
    if request.at is not None and request.at < 0:
        raise NotFound(f"no generation {request.at}", hint="conceptctl log")


def check_text(request: Request) -> None:
    """Refuse texts that are none.

    Raises:
        UsageError: The prompt or the negative prompt is not UTF-8.
    """
    for what, text in (("prompt", request.prompt), ("negative prompt", request.negative)):
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UsageError(f"the {what} is not UTF-8 text", hint="write it in UTF-8")


def own_side(store: Store, of: Base) -> int:
    """The side of the pictures that a base draws by itself, in pixels.

    Raises:
        StoreDamaged: The base does not say.
    """
    return families.family_of(of).picture_side(base.configs(store.layout, of))


def longest_side(store: Store, of: Base) -> int | None:
    """The longest side of a picture that a base has places for, in pixels; None for any."""
    return families.family_of(of).longest_side(base.configs(store.layout, of))


def check_size(size: tuple[int, int], side: int, step: int, longest: int | None = None) -> str:
    """Refuse a size that a base cannot draw.

    Args:
        size: Width and height in pixels.
        side: Of the base's own pictures.
        step: What sides are multiples of.
        longest: The longest that the base has places for; None for any.

    Returns:
        What should be known about the size; "" for nothing.

    Raises:
        UsageError: A side is out of the base's range, or no multiple of the step.
    """
    least, most = max(step, -(-side // RANGE // step) * step), side * RANGE
    if longest is not None:
        most = min(most, longest // step * step)
    shown = "x".join(map(str, size))
    if not all(least <= each <= most and each % step == 0 for each in size):
        near = "x".join(str(min(most, max(least, round(each / step) * step))) for each in size)
        raise UsageError(
            f"this base cannot draw {shown}: sides are multiples of {step} from {least} to {most}",
            hint=f"--size {near}",
        )
    if not 1 / USUAL <= size[0] * size[1] / side**2 <= USUAL:
        return f"this base learned to draw {side}x{side}; at {shown} subjects may be doubled or lost"
    return ""
