"""What was learned, as a record, a file and a generation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import conceptctl
from conceptctl.presets import shipped
from conceptctl.store import concept, jobs, weights
from conceptctl.store.concept import Record
from conceptctl.store.manifest import Attachment, Generation, now
from conceptctl.store.store import Writer
from conceptctl.workflows.adding import add_concept
from conceptctl.workflows.learn.pace import peak_memory

if TYPE_CHECKING:
    from conceptctl.learning.method import Method
    from conceptctl.learning.stopping import Outcome
    from conceptctl.workflows.learn.model import Model
    from conceptctl.workflows.learn.prepared import Prepared
    from conceptctl.workflows.learn.reference import Reference
    from conceptctl.workflows.learn.request import Request
    from conceptctl.workflows.learn.training import Trained


def draft(request: Request, method: Method, head: Generation) -> Record:
    """What is known of a concept before it is learned."""
    return Record(
        uid=concept.new_uid(),
        name=request.name,
        class_word=request.class_word,
        method=method.name,
        learned=now(),
        program=conceptctl.__version__,
        base=head.base.sha256,
        after=head.seq,
        seed=request.train.seed,
        steps=method.config.steps,
        photos=0,
        license=request.license,
        consent=request.consent,
    )


def record_of(
    prepared: Prepared, model: Model, trained: Trained, moved: Mapping[str, float], reference: Reference
) -> Record:
    """Say where a concept came from."""
    trainable, config = trained.trainable, dataclasses.asdict(prepared.method.config)
    parameters = sum(parameter.numel() for parameter in trainable.parameters())
    token = sum(parameter.numel() for parameter in trainable.token.parameters())
    return dataclasses.replace(
        draft(prepared.request, prepared.method, prepared.head),
        steps=trained.outcome.steps if trained.outcome else prepared.method.config.steps,
        photos=prepared.plan.pictures,
        settings={
            **{name: value for name, value in config.items() if name != "steps"},
            # What a file is called may be a path's or another concept's name.
            "preset": prepared.preset.name if prepared.request.preset in (None, *shipped()) else "file",
            "differs": list(prepared.plan.differs),
            "auxiliary": prepared.plan.auxiliary,
            **({"flip": True} if prepared.request.flip else {}),
            **({"resolution": prepared.plan.resolution} if "resolution" in prepared.plan.differs else {}),
            "precision": prepared.precision,
            "trained_parameters": parameters,
            "trained_in_unet": parameters - token,
            **{name: round(value, 6) for name, value in trained.measures.items()},
            **{name: float(f"{value:.3g}") for name, value in moved.items()},
            **(_ended(trained.outcome) if trained.outcome else {}),
            **_taken(prepared, trained),
            **(model.coherence.settings() if model.coherence else {}),
            **(reference.settings or {}),
        },
        loss_curve=tuple(round(value, 6) for value in trained.state.curve),
        contains=trained.learned.contains,
    )


def _ended(outcome: Outcome) -> dict[str, Any]:
    """How a training ended by itself: why, and how the fixed losses were where it began and where it is kept."""
    start, kept = outcome.start, outcome.kept
    found: dict[str, Any] = {
        "max_train_steps": outcome.most,
        "stopped": outcome.reason,
        "kept_step": kept.step,
        "fixed_loss": [round(start.loss, 6), round(kept.loss, 6)],
    }
    if start.class_loss is not None and kept.class_loss is not None:
        found["fixed_class_loss"] = [round(start.class_loss, 6), round(kept.class_loss, 6)]
    return found


def _taken(prepared: Prepared, trained: Trained) -> dict[str, Any]:
    """What it took, for whoever asks what the next one will."""
    taken: dict[str, Any] = {"trained_on": prepared.device.type}
    if memory := peak_memory(prepared.device):
        taken["peak_memory"] = memory
    if trained.seconds_a_step is not None:
        taken["seconds_a_step"] = float(f"{trained.seconds_a_step:.3g}")
    return taken


def commit(
    prepared: Prepared,
    writer: Writer,
    attachments: tuple[Attachment, ...],
    record: Record,
    trained: Trained,
    reference: Reference,
) -> Generation:
    """Write the concept's file and the generation that has it."""
    import torch

    from conceptctl.learning.signals import deferred_signals

    learned = trained.learned
    row = torch.cat(list(learned.tokens.values()), dim=1)
    tensors = weights.concept_tensors(
        {path: trained.factors.get(path) or weights.Delta.of(delta.numpy()) for path, delta in learned.deltas.items()},
        row.numpy(),
        reference.features,
        {name: value.numpy() for name, value in learned.state.items()},
    )
    ref = writer.add_tensors(tensors, record.metadata())
    with deferred_signals():
        made = add_concept(writer, "learn", record, ref, attachments=attachments, onto=prepared.head)
        # Also what was begun with other settings: the name is taken now.
        jobs.remove_for(writer.layout, prepared.request.name)
    return made
