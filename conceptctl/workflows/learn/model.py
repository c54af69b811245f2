"""The model that a concept is learned on, and what it is regularized with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from conceptctl.presets import preset_of
from conceptctl.store import folded
from conceptctl.store.manifest import Attachment
from conceptctl.store.store import Writer
from conceptctl.workflows.learn import auxiliary
from conceptctl.workflows.learn.checkpoint import Resumed
from conceptctl.workflows.learn.coherence import Coherence, measure
from conceptctl.workflows.learn.cost import stages_of, telling_ahead
from conceptctl.workflows.learn.prepared import Prepared
from conceptctl.workflows.model import apply_concepts, load_base

if TYPE_CHECKING:
    from torch import Tensor

    from conceptctl.learning.backbone import Backbone
    from conceptctl.learning.method import Learned
    from conceptctl.store.weights import Array


@dataclass(frozen=True)
class Model:
    """The model that a concept is learned on."""

    backbone: Backbone
    weights: dict[str, Array]
    """Of all targets, in fp32, as they are stored: a GPU's own are rounded already."""
    auxiliary: Tensor | None
    """Latents of auxiliary pictures."""
    attachments: tuple[Attachment, ...]
    coherence: Coherence | None
    """Of the concept's pictures, where it can be told."""


def load_model(prepared: Prepared, writer: Writer | None, resumed: Resumed) -> Model:
    """Load the base, draw what it is regularized with, and give it everything that was learned."""
    from conceptctl.diffusion.models import training_dtype

    watch, head = prepared.watch, prepared.head
    watch.stage("loading the model", 0)
    dtype = training_dtype(prepared.device, prepared.precision)
    backbone = load_base(prepared.store, head, str(prepared.device), dtype=dtype)
    latents, attachments = None, head.attachments
    for ref in resumed.attached:
        attachments = auxiliary.with_kept(prepared.store.layout, attachments, ref)
    alike = measure(prepared, backbone, resumed)
    if prepared.plan.auxiliary:
        latents, attachments = _auxiliary(prepared, writer, backbone, resumed, attachments)
    weights = apply_concepts(prepared.store, head, backbone)
    return Model(backbone, dict(weights), latents, attachments, alike)


def _auxiliary(
    prepared: Prepared,
    writer: Writer | None,
    backbone: Backbone,
    resumed: Resumed,
    attachments: tuple[Attachment, ...],
) -> tuple[Tensor, tuple[Attachment, ...]]:
    """Find the auxiliary pictures' latents, or draw them."""
    word, count, side = prepared.request.class_word, prepared.plan.auxiliary, prepared.plan.auxiliary_side
    found = auxiliary.find(prepared.store.layout, prepared.head, word, count, attachments, side)
    if found is None:
        # What is damaged is said before anything is drawn.
        folded.read(prepared.store.layout, prepared.head)
        a_picture = preset_of(prepared.head.base).evaluations_a_picture
        after = sum(stage.evaluations for stage in stages_of(prepared.to_do, a_picture, 0))
        latents = auxiliary.draw(
            backbone,
            prepared.head,
            word,
            count,
            side=side,
            accelerator=prepared.accelerator,
            watch=telling_ahead(prepared.watch, a_picture, after),
            begun=resumed.begun,
            save=lambda drawn: resumed.save_drawn(drawn, count),
        )
        found = latents, auxiliary.keep(writer, latents, word, attachments, side) if writer else attachments
    if writer:
        resumed.save_auxiliary(found[1][-1].blob)
    return found


def put_in(model: Model, token_id: int, learned: Learned) -> None:
    """Give the model what was learned, as it will be loaded: fp32 sums."""
    import torch

    before = {path: torch.from_numpy(model.weights[path]) for path in learned.deltas}
    model.backbone.set_weights({path: before[path] + delta for path, delta in learned.deltas.items()})
    model.backbone.set_token(token_id, learned.tokens)
