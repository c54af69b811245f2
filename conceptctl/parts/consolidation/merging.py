"""Adapters that were learned apart, each on the base, in one set of weights: as equal parts, or in closed form.

A store's increments add up to what is merged: that of a concept is the merge with it less the merge without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from conceptctl.errors import UsageError
from conceptctl.learning.method import Earlier, State, Task
from conceptctl.learning.weights import Deltas
from conceptctl.parts.consolidation.least_change import regularized_inverse


@dataclass(frozen=True)
class Merged:
    """What was merged before a task."""

    states: list[State]
    """What each concept kept for merging, in the order of learning."""
    contains: tuple[str, ...] = ()
    """Their uids: the next increment contains theirs."""
    back: Deltas = field(default_factory=Deltas)
    """What takes it out of the weights of now; empty where that is the merge of `states`, and no more is known."""
    solved: bool = False
    """Whether these weights were solved for when another concept was forgotten: they are no merge of `states` then."""


def check_mergeable(earlier: Sequence[Earlier], kinds: Sequence[str]) -> None:
    """Refuse to merge what is in weights that were solved for together with concepts of other methods.

    Args:
        earlier: The tasks before.
        kinds: The kinds of state that a merge needs.

    Raises:
        UsageError: What is whose in them is not known.
    """
    found = [each for each in earlier if each.kinds.issuperset(kinds)]
    if len(found) < len(earlier) and any(each.consolidated for each in found):
        raise UsageError(
            "concepts that this method merges stand in weights that were solved for with those of other methods, "
            "when one was forgotten: they cannot be merged anew",
            hint="conceptctl undo that forget (conceptctl log), or a store of its own for this method",
        )


def merged_before(task: Task, kinds: Sequence[str]) -> Merged:
    """Find the earlier tasks that kept what a merge needs.

    Where no other concepts are there, all that the weights have over the base is theirs: also after one of them was
    forgotten, and the weights solved for so that the others stay as they were.

    Args:
        task: The new one.
        kinds: The kinds of state that are needed.

    Raises:
        UsageError: See `check_mergeable`.
    """
    check_mergeable(task.earlier, kinds)
    found = [each for each in task.earlier if each.kinds.issuperset(kinds)]
    alone = len(found) == len(task.earlier)
    solved = any(each.consolidated for each in found)
    back = task.to_base() if alone and found else Deltas()
    return Merged([each.state() for each in found], tuple(each.uid for each in found), back, solved)


class ConstrainedMerge:
    """The weights that give each concept's words the outputs that its own weights give them (Kumari et al. 2023).

    Section 3.3 there: among all changes E of W with E c = (W_i - W) c for the words c of every concept i, that which
    changes the outputs of everything else least, in closed form; see `least_change`. Needed of a concept are its words
    and their outputs alone, so that what is in memory is the words of all, and the outputs of one matrix at a time: not
    the concepts' own weights, of which fifty are 4 GB for Stable Diffusion 1.x.
    """

    def __init__(self, words: Sequence[Tensor], everything_else: Tensor, ridge: float) -> None:
        """Factorize, once for all matrices.

        Args:
            words: Of each concept, hidden states (s_i, D).
            everything_else: The second moment (D, D) of the states whose outputs should change little.
            ridge: What these count beside the words of one concept; as it goes to 0, the words' outputs hold exactly,
                however much words that are nearly alike and should have other outputs ask of the weights.
        """
        # Every concept counts alike, however many words it has.
        self._shares = [len(each) ** -0.5 for each in words]
        states = torch.cat([share * each.double() for share, each in zip(self._shares, words, strict=True)])
        self._solve = states @ regularized_inverse(states.T @ states, everything_else, ridge)

    def of(self, outputs: Sequence[Tensor]) -> Tensor:
        """The change E (D1, D) of one matrix, in float64, from each concept's outputs (W_i - W) c, (D1, s_i)."""
        wanted = [share * each.double() for share, each in zip(self._shares, outputs, strict=True)]
        change: Tensor = torch.cat(wanted, dim=1) @ self._solve
        return change
