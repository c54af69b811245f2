"""Reference samples: a concept's own pictures, drawn when it has just been learned, of which features are kept."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conceptctl.config import Drawing
from conceptctl.presets import preset_of
from conceptctl.workflows.drawing import BATCH, draw_set
from conceptctl.workflows.learn.pace import in_whole_batches
from conceptctl.workflows.learn.plan import plain_prompt
from conceptctl.workflows.reference_samples import PLACEHOLDER_NAME

if TYPE_CHECKING:
    from conceptctl.learning.backbone import Backbone
    from conceptctl.store.weights import Array
    from conceptctl.workflows.learn.coherence import Coherence
    from conceptctl.workflows.learn.prepared import Prepared


@dataclass(frozen=True)
class Reference:
    """The features of reference samples, and how those were drawn."""

    features: Array | None = None
    """(pictures, D)."""
    settings: dict[str, Any] | None = None
    """As the concept's record says it."""


def draw_reference(prepared: Prepared, backbone: Backbone, coherence: Coherence | None) -> Reference:
    """Draw the concept and extract features, where there is something to extract them with.

    Args:
        prepared: What was learned.
        backbone: With it in place.
        coherence: Of the pictures that it was learned from.
    """
    count, extractor = prepared.plan.reference_samples, prepared.extractor
    if count <= 0 or extractor is None:
        return Reference()
    sampling = preset_of(prepared.head.base).drawing
    prepared.watch.stage("drawing reference samples", count)
    prepared.watch.ahead(0.0)
    began = time.monotonic()
    sample = backbone.sampler(prepared.prompt, Drawing(sampling.steps, sampling.guidance))
    drawing, drawn = draw_set(sample, count, accelerator=prepared.accelerator), []
    while batch := list(itertools.islice(drawing, BATCH)):
        drawn += batch
        prepared.watch.advance(len(batch))
    seconds = (time.monotonic() - began) / in_whole_batches(count)
    features = extractor.images(drawn)
    return Reference(
        features.numpy(),
        {
            **(coherence.of_samples(features) if coherence else {}),
            "reference_prompt": plain_prompt(prepared.method, PLACEHOLDER_NAME, prepared.request.class_word),
            "reference_steps": sampling.steps,
            "reference_device": _drawn_on(prepared),
            "reference_guidance": sampling.guidance,
            "feature_extractor": extractor.sha256,
            "seconds_a_picture": float(f"{seconds:.3g}"),
        },
    )


def _drawn_on(prepared: Prepared) -> str:
    """The kind of device; with the precision where evaluation will draw in another, for then features are another's."""
    from conceptctl.diffusion.models import drawing_dtype, training_dtype

    dtype = training_dtype(prepared.device, prepared.precision)
    own = "fp32" if prepared.precision == "no" else prepared.precision
    return prepared.device.type + ("" if dtype == drawing_dtype(prepared.device) else f"-{own}")
