"""Draws pictures with a prepared sampler: one by one for people, in whole batches for what metrics compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import Accelerator
    from PIL import Image

    from conceptctl.learning.backbone import Sampler

BATCH = 8
"""How many pictures `draw_set` draws together, always: its pictures depend on it."""


def draw(sample: Sampler, seeds: Sequence[int]) -> Iterator[Image.Image]:
    """Draw a picture for each seed, each alone, in the order of the seeds.

    In batches of different sizes the same seed gives slightly different numbers, and a picture that somebody liked
    could not be had again.
    """
    for seed in seeds:
        yield from sample([seed])


def in_batches(seeds: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Part seeds into batches of a size; the last may be smaller."""
    for start in range(0, len(seeds), size):
        yield seeds[start : start + size]


def draw_set(
    sample: Sampler, count: int, *, first: int = 0, accelerator: Accelerator | None = None
) -> Iterator[Image.Image]:
    """Draw a fixed set of pictures of one prompt, faster than one by one: seeds 0 to count - 1 in batches of 8.

    Every batch is a whole one, so that the set's first pictures do not depend on how many are asked for, nor on how
    many processes draw them. What metrics compare is drawn with this, and nothing is that a user looks for by its seed.

    Args:
        sample: What draws.
        count: How many pictures.
        first: Where to begin: a whole number of batches.
        accelerator: Whose processes share the work; every one of them gets all pictures. None for this one alone.

    Yields:
        The pictures, in the order of their seeds.
    """
    from conceptctl.learning.processes import spread

    def batch(start: int) -> list[Image.Image]:
        return sample(range(start, start + BATCH))

    left = count - first
    for pictures in spread(accelerator, range(first, count, BATCH), batch):
        yield from pictures[:left]
        left -= len(pictures)
