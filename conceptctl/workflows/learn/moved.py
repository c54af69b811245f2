"""How far a training went, and how fast: in units that mean the same on every base.

A learning rate says by how much a number moves in a step, and numbers of one base are ten times as large as those of
another. What it moved is said in the size of what was moved, so that rates which suit one base can be compared with
those of another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conceptctl.learning.weights import TokenRows
    from conceptctl.workflows.learn.model import Model
    from conceptctl.workflows.learn.training import Trained


def moved(model: Model, trained: Trained, start: TokenRows) -> dict[str, float]:
    """Compare a concept with what it was learned on.

    Args:
        model: It, with the weights from before the training.
        trained: What was learned.
        start: The token rows that it began with, (1, D) by table.

    Returns:
        "moved_weights": Frobenius norm of all deltas over that of the weights they go on; not of tokens alone. Of
        methods that merge it is the increment's, which undoes a part of what was merged before.
        "moved_token": how far its row is from where it began, over the spread of the token table: the root mean square
        distance of a row from the mean row. "token_rate": by how much of that table's deviation a coordinate of the
        row moves in the first step of Adam's at the full rate. Of several tables the means.
    """
    import torch

    from conceptctl.parts.tokens import TokenEmbedding, TokenMlp

    found: dict[str, float] = {}
    changed = [path for path, delta in trained.learned.deltas.items() if bool(delta.any())]
    before = sum(float(torch.from_numpy(model.weights[path]).square().sum()) for path in changed)
    if before:
        size = sum(float(trained.learned.deltas[path].cpu().float().square().sum()) for path in changed)
        found["moved_weights"] = (size / before) ** 0.5
    token, rate = trained.trainable.token, trained.trainable.token_learning_rate
    speeds = token.speeds if isinstance(token, TokenEmbedding | TokenMlp) else {}
    distances, rates = [], []
    for table, embedding in model.backbone.token_tables().items():
        # Off the device, which a training has filled; the tokens that were learned are few beside those of the base.
        rows = embedding.weight.detach().cpu().float()
        deviation = float(rows.var(dim=0, correction=0).mean()) ** 0.5
        if not deviation:
            continue
        moved_by = trained.learned.tokens[table].cpu().float() - start[table].cpu().float()
        distances.append(float(moved_by.norm()) / (deviation * rows.shape[1] ** 0.5))
        rates += [rate * speeds[table] / deviation] if table in speeds else []
    for name, values in (("moved_token", distances), ("token_rate", rates)):
        if values:
            found[name] = sum(values) / len(values)
    return found
