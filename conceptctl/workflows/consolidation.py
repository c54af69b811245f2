"""What several concepts share is solved anew: when one leaves, when one travels, and when one comes.

Each delta was learned on top of the earlier ones, so a sum with one of them missing is another model. What a concept
draws depends on the keys and values of its prompts alone; here they are held to what they were, in closed form
(`parts.consolidation.least_change`), from the prompts' hidden states alone: nothing is drawn, nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from conceptctl import families
from conceptctl.errors import ImportRefused, StoreDamaged
from conceptctl.parts.consolidation.least_change import Constraint, LeastChange, second_moment
from conceptctl.progress import Progress, ignore
from conceptctl.store import base, folded, weights
from conceptctl.store.concept import read_record
from conceptctl.store.manifest import Concept, Generation
from conceptctl.store.store import Store
from conceptctl.workflows.model import token_rows
from conceptctl.workflows.reference_samples import PLACEHOLDER, PROMPT, recipe_of, word_of
from conceptctl.workflows.usual_prompts import among_words, surrounded, whole_words

if TYPE_CHECKING:
    from torch import Tensor

    from conceptctl.learning.backbone import TextSide
    from conceptctl.store.weights import Array

RIDGE = 0.1
"""What the outputs of everything else count, beside those of one concept's prompts (docs/lab/forgetting.md)."""
REFERENCE_PROMPTS = 128
"""Prompts of random words that stand for everything else."""
MOST_PROMPTS, FEWEST = 256, 5
"""Prompts of all concepts together, and of one: a large text encoder takes half a second for one on a slow CPU."""
MOST_OF_ONE = 36
FORGOTTEN = 0.3
"""What the base's outputs for a concept that leaves count, beside those of one that stays: keeping comes first."""
CONTEXTS = 0.5
"""What a concept's token among random words counts, beside its usual prompts."""
UNSEEN = 32
"""Other prompts of random words, on which it is measured what becomes of everything else."""


@dataclass(frozen=True)
class Held:
    """What a change of the model does to one concept.

    Attributes:
        name: The concept.
        changed: How much the keys and values of the prompt that it was learned under change: |difference| / |before|,
            over all of them.
    """

    name: str
    changed: float


@dataclass(frozen=True)
class Solved:
    """Weights that were solved for.

    Attributes:
        weights: All targets, fp32, by parameter path.
        tokens: Token rows of the generation's concepts, by uid.
        kept: What becomes of each concept that was held.
        left: How far what was wanted besides is from holding, in the same measure: what is left of forgotten ones, or
            what an imported one lacks; None where nothing was.
        elsewhere: How much those of other prompts change, which the solution was not told of.
        damaged: The names of concepts that are damaged and not in the stored weights: nothing was done about them.
    """

    weights: Mapping[str, Array]
    tokens: Mapping[str, Array]
    kept: tuple[Held, ...]
    left: float | None
    elsewhere: float
    damaged: tuple[str, ...]


@dataclass(frozen=True)
class States:
    """What a text encoder makes of a concept's prompts."""

    plain: Tensor
    """The hidden states (T, D) of the prompt that it was learned under, on which what becomes of it is measured."""
    everywhere: Tensor
    """The second moment (D, D) of the states of all its prompts."""
    behind: Tensor
    """The same at its token and behind it: a text encoder that looks back only makes nothing of it before."""


class Prompts:
    """The hidden states of prompts, with the tokens of some concepts."""

    def __init__(self, store: Store, generation: Generation, device: str = "auto") -> None:
        """Load the text side of the base.

        Raises:
            StoreDamaged: The base is damaged.
            NotFound: It has no text encoder.
        """
        from conceptctl.diffusion.models import choose_device

        with base.folder(store.layout, generation) as folder:
            family = families.family_of(generation.base)
            self.text: TextSide = family.load_text_side(folder, choose_device(device))
        self._words = whole_words(self.text.tokenizer())
        self.unseen = (
            self.text.hidden_states(among_words(self._words, "", UNSEEN, seed=1) or ["a"])[0].flatten(0, 1).cpu()
        )
        self.empty = second_moment(self.text.hidden_states([""])[0]).cpu()

    def everything_else(self, class_words: Sequence[str]) -> Tensor:
        """The second moment of whatever may be asked for, the concepts' classes among it."""
        plain = [f"a photo of a {word}" for word in dict.fromkeys(class_words) if word]
        return self.text.reference_moment(plain, count=REFERENCE_PROMPTS).cpu()

    def of(self, name: str, prompt: str, row: Array, count: int) -> States:
        """What a concept is asked for by.

        Args:
            name: The concept, whose token is added.
            prompt: What it was learned under.
            row: The row of its token.
            count: How many prompts to take.
        """
        token_id = self.text.add_token(name, token_rows(self.text, row))
        usual = [prompt, f"V*{name}", *surrounded(self.text.tokenizer(), prompt)][: max(3, (count + 1) // 2)]
        texts = [*usual, *among_words(self._words, f"V*{name}", count - len(usual))]
        states, behind = self.text.hidden_states(texts, [token_id])
        share = torch.full((len(texts), 1), CONTEXTS / max(1, len(texts) - len(usual)), dtype=torch.float64)
        # Half of the usual ones is the plain one, as it is where other prompts are kept in training.
        share[: len(usual)] = 0.5 / max(1, len(usual) - 1)
        share[0] = 0.5
        weight = share.to(states.device).expand(behind.shape)
        return States(states[0].cpu(), weighted_moment(states, weight), weighted_moment(states, weight * behind))


def weighted_moment(states: Tensor, weight: Tensor) -> Tensor:
    """The weighted mean (D, D) of h h^T over states (N, T, D), in float64 and on the CPU, for weights (N, T)."""
    scaled = states.double() * weight.sqrt()[..., None]
    flat = scaled.flatten(0, -2)
    found: Tensor = flat.T @ flat / weight.sum()
    # What is solved is small, and in float64 a CPU is as fast as most GPUs.
    return found.cpu()


class Consolidation:
    """A generation's weights, the base's, and the states of its concepts' prompts."""

    def __init__(self, store: Store, generation: Generation, device: str = "auto", progress: Progress = ignore) -> None:
        """Read everything that a solution needs.

        Args:
            store: The store.
            generation: One of its generations.
            device: Where prompts are encoded: "auto", "cpu" or "cuda".
            progress: Told of how many concepts the prompts are encoded.

        Raises:
            StoreDamaged: The base or the stored weights are damaged.
        """
        self.generation = generation
        found = base.tensors(store.layout, generation.base)
        family = families.facts_of(generation.base)
        self._base = {path: found[path][:2] for path in found if family.is_target(path)}
        damaged: list[str] = []
        sums, self.tokens = folded.read(store.layout, generation, lambda each, error: damaged.append(each.name))
        self.damaged = tuple(damaged)
        self.current = {path: sums[path] if path in sums else self._read(path) for path in self._base}
        self.prompts = Prompts(store, generation, device)
        self.states: dict[str, States] = {}
        self._words = []
        whole = [each for each in generation.concepts if each.uid in self.tokens]
        for index, concept in enumerate(whole):
            prompt, word = _asked_by(store, generation, concept)
            row, count = self.tokens[concept.uid], prompts_each(len(whole))
            self.states[concept.uid] = self.prompts.of(concept.name, prompt, row, count)
            self._words.append(word)
            progress(index + 1, len(whole))

    def without(self, uids: Collection[str]) -> Solved:
        """The weights without some concepts: the least change of the current ones.

        What the others' prompts and the empty one give is held to what it is; what the leaving ones' prompts give, at
        their tokens and behind them, is what the base gives.
        """
        leaving = [states for uid, states in self.states.items() if uid in uids]
        gone = [Constraint(each.behind, self.base_weight, FORGOTTEN) for each in leaving]
        return self._solve(self.current_weight, set(self.states) - set(uids), gone)

    def whole(self, uids: Collection[str]) -> Solved:
        """The base's weights with some concepts alone, which draw what they draw now: the base's least change."""
        return self._solve(self.base_weight, uids, [])

    def joined_by(self, name: str, prompt: str, row: Array, word: str, wanted: Callable[[str], Tensor]) -> Solved:
        """The current weights with one more concept from elsewhere, which leaves those that are there as they are.

        Args:
            name: The new one.
            prompt: What it was learned under.
            row: The row of its token.
            word: What kind of thing it is.
            wanted: The weights of the model that it comes from, by path.

        Returns:
            The weights; `left` says how far the new one's keys and values are from what they were there.
        """
        states = self.prompts.of(name, prompt, row, prompts_each(len(self.states) + 1))
        self._words.append(word)
        return self._solve(self.current_weight, self.states, [Constraint(states.behind, wanted)])

    def base_weight(self, path: str) -> Tensor:
        """A weight of the base."""
        return torch.from_numpy(self._read(path))

    def current_weight(self, path: str) -> Tensor:
        """A weight of the generation."""
        return torch.from_numpy(self.current[path])

    def _read(self, path: str) -> Array:
        return weights.read_floats(*self._base[path])

    def _solve(self, start: Callable[[str], Tensor], staying: Collection[str], others: Sequence[Constraint]) -> Solved:
        """Change weights as little as possible, so that some concepts stay as they are and other constraints hold."""
        names = {each.uid: each.name for each in self.generation.concepts}
        # In the order of learning, so that the same store gives the same bits.
        kept = {uid: states for uid, states in self.states.items() if uid in staying}
        held = self.prompts.empty.clone()
        for states in kept.values():
            held += states.everywhere
        everything_else = self.prompts.everything_else(self._words)
        solver = LeastChange([Constraint(held, self.current_weight), *others], everything_else, RIDGE)
        solved, measured = {}, Measured()
        for path in self._base:
            now, before = self.current_weight(path), start(path)
            after = (before.double() + solver.of(path, before)).float()
            solved[path] = after.numpy()
            for uid, states in kept.items():
                measured.add(uid, now, after, states.plain)
            measured.add("", now, after, self.prompts.unseen)
        left = max(solver.missed[1:], default=None)
        changes = tuple(Held(names[uid], measured.share(uid)) for uid in kept)
        return Solved(solved, self.tokens, changes, left, measured.share(""), self.damaged)


def _asked_by(store: Store, generation: Generation, concept: Concept) -> tuple[str, str]:
    """What a concept was learned under, and its class's word; where its file is damaged, what is usual."""
    try:
        record = read_record(store.blob(concept))
    except (StoreDamaged, ImportRefused):
        # The stored weights have it, or they could not have been read.
        return PROMPT.replace(PLACEHOLDER, f"V*{concept.name}"), ""
    return recipe_of(record, generation.base).prompt_for(concept.name), word_of(record)


def prompts_each(concepts: int) -> int:
    """How many prompts of each concept are taken where there are so many concepts."""
    return min(MOST_OF_ONE, max(FEWEST, MOST_PROMPTS // max(1, concepts)))


class Measured:
    """Adds up, matrix after matrix, how much the outputs of states change."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}

    def add(self, what: str, before: Tensor, after: Tensor, states: Tensor) -> None:
        """Add one matrix (D1, D) before and after, for states (N, D)."""
        sums = self._sums.setdefault(what, [0.0, 0.0])
        sums[0] += float((states @ (after - before).T).square().sum())
        sums[1] += float((states @ before.T).square().sum())

    def share(self, what: str) -> float:
        """|difference| / |before|."""
        changed, asked = self._sums[what]
        return float((max(changed, 0.0) / asked) ** 0.5) if asked else 0.0
