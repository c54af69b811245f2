"""The one place where a `Task` is made: for `learn`, for benchmarks, and for the contract test of methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import torch

from conceptctl.errors import ImportRefused
from conceptctl.learning.method import Earlier, Task
from conceptctl.learning.weights import Deltas, output_energy, shapes_of
from conceptctl.store import base, folded, weights
from conceptctl.store.concept import read_record
from conceptctl.workflows.reference_samples import recipe_of
from conceptctl.workflows.usual_prompts import usual

if TYPE_CHECKING:
    from torch import Tensor

    from conceptctl.learning.backbone import Backbone
    from conceptctl.learning.method import Method, State
    from conceptctl.learning.weights import TokenRows
    from conceptctl.store.manifest import Concept, Generation
    from conceptctl.store.store import Store
    from conceptctl.store.weights import Array

_TEACHERS = 8
"""How many earlier models' deltas are held at once; each is as large as all targets."""


def make_task(
    backbone: Backbone,
    method: Method,
    *,
    token_ids: Sequence[int],
    token_start: TokenRows,
    prompt: str,
    class_word: str = "",
    prior_prompt: str,
    earlier: Sequence[Earlier] = (),
    names: Sequence[str] = (),
    change: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Task:
    """Say what a method must know of one concept to learn.

    Args:
        backbone: The model, with everything that was learned before and with the concept's token.
        method: Which decides whether the reference states are computed.
        token_ids: The tokens that are learned.
        token_start: Where they begin.
        prompt: What the concept is asked for by.
        class_word: What kind of thing it is; "" for nothing said.
        prior_prompt: What auxiliary pictures are learned under.
        earlier: The tasks before this one.
        names: The concepts that are to stay as they are, by name.
        change: |sum of all earlier deltas|, (D1, D2) by path of every target; None or empty for nothing.
        seed: Of everything random.
    """
    targets = backbone.targets()
    factor, energy = None, {}
    if method.config.needs_reference:
        # Of the model that this concept is learned on: earlier ones are kept as they are drawn now.
        factor = backbone.reference_factor([prior_prompt], without=token_ids)
        # What the targets make of the usual prompts is the measure, or it would grow with what is kept.
        energy = output_energy(targets, factor)
        factor = backbone.with_prompts(factor, [usual(backbone.tokenizer(), name) for name in names])
    shapes = shapes_of(targets)
    return Task(
        shapes,
        token_start,
        prompt,
        prior_prompt if class_word else "",
        tuple(earlier),
        Deltas.of({path: change[path] for path in shapes} if change else {}).to(backbone.device),
        seed,
        factor,
        energy,
    )


def change_so_far(store: Store, head: Generation, current: Mapping[str, Array]) -> dict[str, Tensor]:
    """Return |sum of all deltas| of a generation, by path; {} where no weight was changed.

    Args:
        store: The store.
        head: The generation.
        current: Its weights, of all targets.
    """
    if not head.concepts:
        return {}
    found = base.tensors(store.layout, head.base)
    total = {
        path: torch.from_numpy(weight - weights.read_floats(*found[path][:2])).abs() for path, weight in current.items()
    }
    # Tokens alone change no weights, and are nothing to look after.
    return total if any(each.any() for each in total.values()) else {}


def earlier_tasks(store: Store, head: Generation, current: Mapping[str, Array], device: torch.device) -> list[Earlier]:
    """Return the concepts of a generation as a method sees them; what is large is read when it is asked for.

    Args:
        store: The store.
        head: The generation.
        current: Its weights, of all targets, which a teacher's deltas are relative to.
        device: Where deltas go.
    """

    @lru_cache(maxsize=_TEACHERS)
    def deltas_of(count: int) -> Deltas:
        then = dataclasses.replace(head, concepts=head.concepts[:count], folded=None)
        sums, _ = folded.read(store.layout, then)
        found = base.tensors(store.layout, head.base)
        before = {path: sums[path] if path in sums else weights.read_floats(*found[path][:2]) for path in current}
        turned = {path: torch.from_numpy(weight - current[path]) for path, weight in before.items()}
        return Deltas.of(turned).to(device)

    def task_of(index: int, concept: Concept) -> Earlier:
        @cache
        def state() -> State:
            # Whoever goes on from it must have it as it was committed; nobody else is stopped by what is damaged.
            kept = weights.read_state(store.blob(concept, read=True))
            return {name: torch.from_numpy(array) for name, array in kept.items()}

        try:
            record = read_record(store.blob(concept))
        except ImportRefused:
            # Nobody is stopped by a damaged record but whoever goes on from it, who asks for the state.
            prompt = f"a photo of a V*{concept.name}"
            return Earlier(concept.uid, prompt, state=state, deltas=lambda: deltas_of(index + 1))
        kinds = weights.state_kinds(store.blob(concept))
        prompt = recipe_of(record, head.base).prompt_for(concept.name)
        return Earlier(concept.uid, prompt, kinds, state, lambda: deltas_of(index + 1), record.contains)

    return [task_of(index, concept) for index, concept in enumerate(head.concepts)]
