"""LoRA merge: adapters that were learned each on the base, with equal weights ("Mining your own secrets")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from conceptctl.learning.method import Earlier, Learned, Method, State, Task, Trainable
from conceptctl.learning.weights import Deltas, Products, Shape, grouped_by_shape
from conceptctl.parts.adapters.low_rank import LowRank
from conceptctl.parts.adapters.pretrained import OnPretrained, own_adapter
from conceptctl.parts.consolidation.merging import check_mergeable, merged_before
from conceptctl.parts.tokens import TokenEmbedding

KINDS = ("merged_up", "merged_down")


class LoraMerge(Method):
    """Every concept's adapter is kept as it was learned; the weights have the mean of all."""

    name = "lora-merge"
    paper = "Mining your own secrets (2024), section 4; Ilharco et al. 2023, Editing models with task arithmetic"
    trained_on = "pretrained"

    def check(self, earlier: Sequence[Earlier], shapes: Mapping[str, Shape]) -> None:
        """Refuse what cannot be merged anew.

        Raises:
            UsageError: See `check_mergeable`.
        """
        check_mergeable(earlier, KINDS)

    def attach(self, task: Task) -> Trainable:
        """Make adapters over the base, and a token row."""
        self.check(task.earlier, task.shapes)
        generator = torch.Generator().manual_seed(task.seed)
        own = LowRank(task.shapes, self.config.rank, self.config.learning_rate, generator=generator)
        return Trainable(OnPretrained(own, task), TokenEmbedding(task.token_start), self.config.token_learning_rate)

    @torch.no_grad()
    def finish(self, task: Task, trainable: Trainable) -> Learned:
        """The mean with this adapter less what is in the weights of it, as factors where that is known, and its own."""
        own = own_adapter(trainable)
        assert isinstance(own, LowRank)
        state = own.factors_by_path(*KINDS)
        before = merged_before(task, KINDS)
        states = [*before.states, state]
        share = 1 / len(states)
        if before.solved:
            merge = weighted([share] * len(states), states, task.shapes)
            deltas = Deltas.of({path: matrix + before.back[path].cpu() for path, matrix in merge.items()})
        else:
            # The mean with this one less the mean without it: each earlier one counts a little less than before.
            less = [share - 1 / len(before.states) for _ in before.states]
            deltas = weighted([*less, share], states, task.shapes)
        return Learned(deltas, trainable.tokens(), state, before.contains)


def weighted(shares: Sequence[float], states: Sequence[State], shapes: Mapping[str, Shape]) -> Deltas:
    """Sum the adapters of several tasks, each by its share: a product of as many ranks as they have together.

    Args:
        shares: What each counts; equal ones are task arithmetic's mean (Ilharco et al. 2023).
        states: Their factors, `KIND/PATH`.
        shapes: The targets, (D1, D2) by path.
    """
    made = {}
    for paths in grouped_by_shape(shapes):
        up, down = (
            torch.stack([torch.cat([each[f"{kind}/{path}"].cpu() for each in states], dim=axis) for path in paths])
            for kind, axis in zip(KINDS, (1, 0), strict=True)
        )
        ranks = [each[f"{KINDS[1]}/{paths[0]}"].shape[0] for each in states]
        made[paths] = Products(up * torch.tensor(shares).repeat_interleave(torch.tensor(ranks)), down)
    return Deltas({paths: each.up @ each.down for paths, each in made.items()}, made)
