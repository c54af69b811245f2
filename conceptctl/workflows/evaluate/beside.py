"""Prompts that say more than a concept's name, for a report: does it go where the prompt says, and beside others?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from conceptctl.diffusion.prompts import MARKER
from conceptctl.presets import preset_of
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store
from conceptctl.workflows.drawing import draw
from conceptctl.workflows.evaluate.evaluation import Beside
from conceptctl.workflows.generate.compose import compose

if TYPE_CHECKING:
    from conceptctl.learning.backbone import Backbone

SEEDS = (0, 1, 2)
PAIRS = 4
"""The most pairs that are drawn, of neighbours in the order of learning: the cost of a report is known beforehand."""
ALONE, TOGETHER = "a photo of a {} at night", "a photo of {} next to {}"


def prompts_beside(names: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the prompts that a report shows, each with the concepts in it."""
    pairs = list(pairwise(names))[:PAIRS]
    return tuple(_prompts([(ALONE, (name,)) for name in names])) + tuple(_prompts([(TOGETHER, two) for two in pairs]))


def _prompts(asked: Sequence[tuple[str, tuple[str, ...]]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for form, names in asked:
        yield form.format(*(MARKER + name for name in names)), names


def draw_beside(
    store: Store,
    head: Generation,
    backbone: Backbone,
    prompts: Sequence[tuple[str, tuple[str, ...]]],
    advance: Callable[[int], None],
) -> tuple[Beside, ...]:
    """Draw prompts as `generate` does, one picture a seed.

    Args:
        store: The store.
        head: Whose concepts.
        backbone: The model, with all of them in it.
        prompts: As `prompts_beside` gives them.
        advance: Called after each prompt.
    """
    sampling = preset_of(head.base).sampling
    found = []
    for prompt, names in prompts:
        composed = compose(store, head, prompt, list(names))
        sample = backbone.sampler(composed, steps=sampling.steps, guidance=sampling.guidance)
        found.append(Beside(prompt, names, tuple(draw(sample, SEEDS))))
        advance(1)
    return tuple(found)
