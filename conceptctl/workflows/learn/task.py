"""The one place where a `Task` is made: for `learn`, for benchmarks, and for the contract test of methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING

import torch

from conceptctl.errors import ImportRefused
from conceptctl.learning.method import Earlier, Task
from conceptctl.learning.weights import Deltas, output_energy, shapes_of, token_override
from conceptctl.store import base, folded, tensorfile, weights
from conceptctl.store.concept import read_record
from conceptctl.workflows.learn.auxiliary import prompt_of
from conceptctl.workflows.reference_samples import recipe_of
from conceptctl.workflows.usual_prompts import usual

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from conceptctl.learning.backbone import Backbone
    from conceptctl.learning.method import Method, State
    from conceptctl.learning.weights import TokenRows
    from conceptctl.store.manifest import Concept, Generation
    from conceptctl.store.store import Store
    from conceptctl.store.weights import Array

_TEACHERS = 8
"""How many earlier models' deltas are held at once in the host's memory; each is as large as all targets, and one is
on the device while it teaches."""


def make_task(
    backbone: Backbone,
    method: Method,
    *,
    token_ids: Sequence[int],
    token_start: TokenRows,
    prompt: str,
    class_word: str = "",
    earlier: Sequence[Earlier] = (),
    names: Sequence[str] = (),
    change: Mapping[str, Tensor] | None = None,
    to_base: Callable[[], Deltas] = Deltas,
    seed: int = 0,
) -> Task:
    """Say what a method must know of one concept to learn.

    Args:
        backbone: The model, with everything that was learned before and with the concept's token.
        method: Which decides whether the reference states are computed, and the change is kept.
        token_ids: The tokens that are learned.
        token_start: Where they begin.
        prompt: What the concept is asked for by.
        class_word: What kind of thing it is, of which auxiliary pictures are; "" for nothing said.
        earlier: The tasks before this one.
        names: The concepts that are to stay as they are, by name.
        change: |sum of all earlier deltas|, (D1, D2) by path of every target; None or empty for nothing.
        to_base: Gives what turns the model's weights into the base's.
        seed: Of everything random.
    """
    targets = backbone.targets()
    factor, energy = None, {}
    prior = prompt_of(class_word) if class_word else ""
    if method.config.needs_reference:
        # What is merged has one and the same reference for all its concepts, whatever each is.
        on_base = method.trained_on == "pretrained"
        # Of the model that this concept is learned on: earlier ones are kept as they are drawn now.
        factor = backbone.reference_factor([prior] if prior and not on_base else [], without=token_ids)
        # What the targets make of the usual prompts is the measure, or it would grow with what is kept.
        energy = output_energy(targets, factor)
        if not on_base:
            factor = backbone.with_prompts(factor, [usual(backbone.tokenizer(), name) for name in names])
    shapes = shapes_of(targets)
    changed = change if change and method.config.needs_change else {}
    return Task(
        shapes,
        token_start,
        prompt,
        prior,
        tuple(earlier),
        # It only weighs a penalty on changes of the targets: their precision is enough.
        Deltas.of({path: changed[path].to(targets[path].weight.dtype) for path in shapes} if changed else {}).to(
            backbone.device
        ),
        seed,
        factor,
        energy,
        to_base,
        partial(_words, backbone, prompt, tuple(token_ids)),
    )


@torch.no_grad()
def _words(backbone: Backbone, prompt: str, token_ids: Sequence[int], rows: TokenRows) -> Tensor:
    """The hidden states (s, D) of a prompt's words from a token on, its end among them, with given token rows."""
    with token_override(backbone.token_tables(), token_ids, backbone.token_numbers(token_ids)) as override:
        override.rows = rows
        states, behind = backbone.hidden_states([prompt], token_ids)
    # What fills the prompt up to the text encoder's length are no words.
    length = len(backbone.tokenizer()(prompt, truncation=True).input_ids)
    return states[0, :length][behind[0, :length]]


def change_so_far(store: Store, head: Generation, current: Mapping[str, Array]) -> dict[str, Tensor]:
    """Return |sum of all deltas| of a generation, by path; {} where no weight was changed.

    Args:
        store: The store.
        head: The generation.
        current: Its weights, of all targets.
    """
    return {path: each.abs_() for path, each in _to_base(store, head, current).items()}


def way_to_base(
    store: Store, head: Generation, current: Mapping[str, Array], device: torch.device
) -> Callable[[], Deltas]:
    """Give what turns the weights of a generation into the base's, when it is asked for; see `change_so_far`."""
    return lambda: Deltas.of(_to_base(store, head, current)).to(device)


def _to_base(store: Store, head: Generation, current: Mapping[str, Array]) -> dict[str, Tensor]:
    if not head.concepts:
        return {}
    found = base.tensors(store.layout, head.base)
    back = {path: torch.from_numpy(weights.read_floats(*found[path][:2]) - weight) for path, weight in current.items()}
    # Tokens alone change no weights.
    return back if any(each.any() for each in back.values()) else {}


class StoredState(Mapping[str, "Tensor"]):
    """What a concept's method kept, each tensor read when it is asked for: many concepts need little memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        names = tensorfile.read_header(path).tensors
        self._names = [name.removeprefix("state/") for name in names if name.startswith("state/")]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return torch.from_numpy(weights.read_floats(self._path, f"state/{name}"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


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
        return Deltas.of(turned)

    def task_of(index: int, concept: Concept) -> Earlier:
        @cache
        def state() -> State:
            # Whoever goes on from it must have it as it was committed; nobody else is stopped by what is damaged.
            return StoredState(store.blob(concept, read=True))

        try:
            record = read_record(store.blob(concept))
        except ImportRefused:
            # Nobody is stopped by a damaged record but whoever goes on from it, who asks for the state.
            prompt = f"a photo of a V*{concept.name}"
            return Earlier(
                concept.uid,
                prompt,
                state=state,
                deltas=lambda: deltas_of(index + 1).to(device),
                consolidated=concept.consolidated,
            )
        kinds = weights.state_kinds(store.blob(concept))
        prompt = recipe_of(record, head.base).prompt_for(concept.name)
        return Earlier(
            concept.uid,
            prompt,
            kinds,
            state,
            lambda: deltas_of(index + 1).to(device),
            record.contains,
            concept.consolidated,
        )

    return [task_of(index, concept) for index, concept in enumerate(head.concepts)]
