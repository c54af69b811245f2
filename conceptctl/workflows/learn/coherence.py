"""Whether a folder's pictures show one thing, by an image tower and what the base draws when it is not told what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conceptctl.config import Drawing
from conceptctl.presets import Preset, preset_of
from conceptctl.store import folded
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store
from conceptctl.workflows.drawing import draw_set
from conceptctl.workflows.learn import picture_texts
from conceptctl.workflows.learn.earlier import earlier_records
from conceptctl.workflows.learn.images import unlike_drawings

if TYPE_CHECKING:
    from torch import Tensor

    from conceptctl.images.gate import Checked
    from conceptctl.learning.backbone import Backbone
    from conceptctl.workflows.learn.checkpoint import Resumed
    from conceptctl.workflows.learn.prepared import Prepared

DIFFERENT = 8
"""Pictures of different things that are drawn, by a store's first concept."""
LEAST_PICTURES = 3
"""With fewer nothing is said."""
DRAWING = "drawing 'a photo', to compare the pictures with"
PROMPT = "a photo"
KEPT = "similarity_of_different"
"""What a run and a record call how alike pictures of different things are."""


@dataclass(frozen=True)
class Coherence:
    """How alike the pictures of a concept are."""

    value: float
    """0 as pictures of different things, 1 all the same."""
    different: float
    """The mean cosine similarity of pictures of different things."""
    features: Tensor
    """Of the concept's pictures, (N, D)."""

    def settings(self) -> dict[str, float]:
        """As the concept's record says it."""
        return {"coherence": self.value, KEPT: self.different}

    def of_samples(self, samples: Tensor) -> dict[str, float]:
        """How like the pictures what was drawn of the concept is, likewise; nothing where they show no one thing."""
        from conceptctl.metrics.coherence import sample_similarity

        if self.value < picture_texts.LEAST:
            return {}
        return {"sample_similarity": round(sample_similarity(samples, self.features, self.different), 3)}


def pictures_compared(preset: Preset, checked: Checked) -> int:
    """With how many pictures of different things a concept's are compared; 0 where nothing can be said.

    An image tower that knows drawings does not know which photographs are alike.
    """
    return 0 if unlike_drawings(checked, preset.learn) or len(checked.pictures) < LEAST_PICTURES else DIFFERENT


def known(store: Store, head: Generation, extractor: str | None = None) -> float | None:
    """How alike pictures of different things are, by a concept that was learned here; None where none says.

    Args:
        store: The store.
        head: Its generation.
        extractor: The digest of the image tower; any by default.
    """
    sampling = preset_of(head.base).drawing
    how: dict[str, Any] = {"reference_steps": sampling.steps, "reference_guidance": sampling.guidance}
    how |= {} if extractor is None else {"feature_extractor": extractor}
    for _, record in earlier_records(store, head):
        value: Any = record.settings.get(KEPT)
        # A record may be from a file of somebody else's.
        if type(value) is float and -1 <= value < 1 and all(record.settings.get(name) == how[name] for name in how):
            return value
    return None


def measure(prepared: Prepared, backbone: Backbone, resumed: Resumed) -> Coherence | None:
    """Compare a concept's pictures with what the base draws when it is not told what; warn where they differ as much.

    Args:
        prepared: What is learned.
        backbone: The base, with nothing learned on it.
        resumed: The run, which need not draw again what it drew.

    Returns:
        How alike they are; None where there is nothing to tell it with.
    """
    count, extractor = prepared.to_do.compared, prepared.extractor
    if not count or extractor is None:
        return None
    from conceptctl.metrics.coherence import coherence, similarity

    tower, different = resumed.kept.get(KEPT, ("", None))
    if tower != extractor.sha256:
        different = known(prepared.store, prepared.store.head(), extractor.sha256)
    if different is None:
        # What is damaged is said before anything is drawn.
        folded.read(prepared.store.layout, prepared.head)
        sampling = preset_of(prepared.head.base).drawing
        prepared.watch.stage(DRAWING, count)
        sample = backbone.sampler(PROMPT, Drawing(sampling.steps, sampling.guidance))
        pictures = list(draw_set(sample, count, accelerator=prepared.accelerator))
        prepared.watch.advance(count)
        different = min(similarity(extractor.images(pictures)), 1 - 1e-6)
    different = round(different, 6)
    resumed.kept[KEPT] = [extractor.sha256, different]
    own = extractor.images([each.image() for each in prepared.checked.pictures])
    found = Coherence(round(coherence(own, different), 3), different, own)
    if text := picture_texts.differs_text(found.value):
        prepared.watch.warn(text)
    return found
