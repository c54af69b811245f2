"""Aspect-ratio buckets: the sizes that pictures of any shape are learned at, so that little is cut off them.

The idea is NovelAI's ("NovelAI improvements on Stable Diffusion", 2022): sides in steps, about as many pixels as the
square has, and the bucket whose aspect ratio is nearest. Here the largest one is taken that shows enough of a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

Size = tuple[int, int]
"""Width and height, in pixels."""

RESOLUTION_STEP = 64
"""Pixels: resolutions that can be asked for are multiples of it."""
ENOUGH = 0.95
"""The share of a picture that a bucket must show to be taken for its number of pixels."""


@dataclass(frozen=True)
class PictureSizes:
    """What a base says of the pictures that can be learned on it."""

    side: int
    """Side of the square that it draws, in pixels."""
    step: int = 0
    """Sides of other pictures are multiples of it; 0 where there are none but the square."""
    longest: int | None = None
    """The longest side that the base has places for; None for any."""

    @property
    def least(self) -> int:
        """The smallest resolution: half its own."""
        return self.side // 2 if self.step else self.side

    @property
    def most(self) -> int:
        """The largest resolution: twice its own, if the base has places for a square of that."""
        most = 2 * self.side if self.step else self.side
        return most if self.longest is None else min(most, self.longest)

    def takes(self, resolution: int) -> bool:
        """Whether pictures can be learned at a resolution."""
        fits = self.least <= resolution <= self.most and resolution % RESOLUTION_STEP == 0
        return resolution == self.side or fits


def bucket_of(size: Size, side: int, step: int, longest: int | None = None) -> Size:
    """Return the bucket of a picture: the largest that shows `ENOUGH` of it, or else the one that shows the most.

    Args:
        size: Of the upright picture.
        side: Of the square: no bucket has more pixels.
        step: Sides are multiples of it, and half to twice the square's; 0 for the square alone.
        longest: No side is longer.
    """
    sizes = _buckets(side, step, longest)
    enough = [each for each in sizes if cover(size, each) >= ENOUGH]

    def pixels(bucket: Size) -> tuple[float, ...]:
        return bucket[0] * bucket[1], cover(size, bucket), min(bucket)

    return max(enough, key=pixels) if enough else max(sizes, key=lambda each: (cover(size, each), *pixels(each)))


@cache
def _buckets(side: int, step: int, longest: int | None) -> tuple[Size, ...]:
    if not step:
        return ((side, side),)
    most = 2 * side if longest is None else min(2 * side, longest)
    sides = range(-(-side // 2 // step) * step, most + 1, step)
    found = ((width, height) for width in sides for height in sides if width * height <= side * side)
    return ((side, side), *(each for each in found if each != (side, side)))


def cover(size: Size, bucket: Size) -> float:
    """The share of a picture that is left when its middle has the shape of a bucket."""
    wide, high = size[0] * bucket[1], size[1] * bucket[0]
    return min(wide, high) / max(wide, high)


def enlarges(size: Size, bucket: Size) -> bool:
    """Whether a picture has fewer pixels than its bucket along a side."""
    return size[0] < bucket[0] or size[1] < bucket[1]
