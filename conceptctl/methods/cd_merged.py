"""Custom Diffusion, merged: concepts learned each on the base, in one set of weights (Kumari et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from conceptctl.learning.method import Earlier, Learned, Method, Task, Trainable
from conceptctl.learning.weights import Deltas, Shape
from conceptctl.parts.adapters import full
from conceptctl.parts.adapters.full import Full
from conceptctl.parts.adapters.pretrained import OnPretrained, own_adapter
from conceptctl.parts.consolidation.merging import ConstrainedMerge, check_mergeable, merged_before
from conceptctl.parts.tokens import TokenEmbedding

WORDS, OUTPUTS = "merged_words", "merged_outputs"


@dataclass(frozen=True)
class Config(full.Config):
    """Custom Diffusion's settings, and the merge's."""

    merge_ridge: float = 1e-3
    """What all other prompts' outputs count beside those of a concept's words, more than 0; the paper's constraint is
    the limit at 0."""

    @property
    def needs_reference(self) -> bool:
        """What other prompts' states are: their outputs are to change least."""
        return True


class CdMerged(Method):
    """Of every concept its words and their keys and values are kept; the weights are solved for, for all of them."""

    name = "cd-merged"
    paper = "Kumari et al. 2023, Custom Diffusion, section 3.3"
    trained_on = "pretrained"
    configuration = Config
    config: Config

    def check(self, earlier: Sequence[Earlier], shapes: Mapping[str, Shape]) -> None:
        """Refuse what cannot be merged anew.

        Raises:
            UsageError: See `check_mergeable`.
        """
        check_mergeable(earlier, (WORDS, OUTPUTS))

    def attach(self, task: Task) -> Trainable:
        """Make a change of every target over the base, and a token row."""
        self.check(task.earlier, task.shapes)
        own = Full(task.shapes, self.config.learning_rate)
        return Trainable(OnPretrained(own, task), TokenEmbedding(task.token_start), self.config.token_learning_rate)

    @torch.no_grad()
    def finish(self, task: Task, trainable: Trainable) -> Learned:
        """The merge with this concept less what is in the weights of it, and the concept's words and their outputs."""
        assert task.words is not None and task.reference_factor is not None
        words, factor = task.words(trainable.tokens()).cpu(), task.reference_factor.cpu().double()
        own = own_adapter(trainable).folded()
        first = next(iter(task.shapes))
        state = {f"{OUTPUTS}/{path}": own[path].cpu() @ words.T for path in task.shapes}
        state[f"{WORDS}/{first}"] = words
        before = merged_before(task, (WORDS, OUTPUTS))
        all_words = [each[f"{WORDS}/{first}"] for each in (*before.states, state)]
        solved = partial(ConstrainedMerge, everything_else=factor @ factor.T, ridge=self.config.merge_ridge)
        merge = solved(all_words)
        without = solved(all_words[:-1]) if before.states and not before.back else None
        increments = {}
        for path in task.shapes:
            # Read where they stand, one matrix's at a time, however many concepts there are.
            outputs = [each[f"{OUTPUTS}/{path}"] for each in (*before.states, state)]
            change = merge.of(outputs)
            if before.back:
                change += before.back[path].cpu()
            elif without:
                change -= without.of(outputs[:-1])
            increments[path] = change.float()
        return Learned(Deltas.of(increments), trainable.tokens(), state, before.contains)
