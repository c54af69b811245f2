"""Prompts that say more than a concept's name, for a report: does it go where the prompt says, and beside others?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from conceptctl.config import Drawing
from conceptctl.diffusion.prompts import MARKER
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store
from conceptctl.workflows.drawing import draw
from conceptctl.workflows.evaluate.evaluation import Beside
from conceptctl.workflows.generate.compose import compose
from conceptctl.workflows.reference_samples import Recipe

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
    recipes: Mapping[str, Recipe],
    advance: Callable[[int], None],
) -> tuple[Beside, ...]:
    """Draw prompts as `generate` does, one picture a seed.

    Args:
        store: The store.
        head: Whose concepts.
        backbone: The model, with all of them in it.
        prompts: As `prompts_beside` gives them.
        recipes: How each concept's own pictures are drawn, by name: these are drawn with the same steps and guidance.
        advance: Called after each prompt.
    """
    found = []
    for prompt, names in prompts:
        composed = compose(store, head, prompt, list(names))
        recipe = recipes[names[0]]
        sample = backbone.sampler(composed, Drawing(recipe.steps, recipe.guidance))
        found.append(Beside(prompt, names, tuple(draw(sample, SEEDS))))
        advance(1)
    return tuple(found)
