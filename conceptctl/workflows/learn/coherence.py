"""Whether a folder's pictures show one thing, by an image tower and what the base draws when it is not told what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conceptctl.presets import Preset, preset_of
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store
from conceptctl.workflows.drawing import draw_set
from conceptctl.workflows.learn.earlier import earlier_records

if TYPE_CHECKING:
    from torch import Tensor

    from conceptctl.images.gate import Checked
    from conceptctl.learning.backbone import Backbone
    from conceptctl.workflows.learn.prepared import Prepared

DIFFERENT = 8
"""Pictures of different things that are drawn, by a store's first concept."""
LEAST = 0.25
"""Below that pictures count as of different things (`benchmarks/coherence.py`)."""
LEAST_PICTURES = 3
"""With fewer nothing is said."""
DRAWING = "drawing anything, to compare with"
PROMPT = "a photo"


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
        return {"coherence": self.value, "similarity_of_different": self.different}

    def likeness(self, samples: Tensor) -> dict[str, float]:
        """How like the pictures what was drawn of the concept is, likewise; nothing where they show no one thing."""
        from conceptctl.metrics.coherence import likeness

        return {"likeness": round(likeness(samples, self.features, self.different), 3)} if self.value >= LEAST else {}


def pictures_compared(preset: Preset, checked: Checked) -> int:
    """With how many pictures of different things a concept's are compared; 0 where nothing can be said.

    An image tower that knows drawings does not know which photographs are alike.
    """
    foreign = checked.photographic and not preset.learn.photographs
    return 0 if foreign or len(checked.pictures) < LEAST_PICTURES else DIFFERENT


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
        value: Any = record.settings.get("similarity_of_different")
        # A record may be from a file of somebody else's.
        if type(value) is float and -1 <= value < 1 and all(record.settings.get(name) == how[name] for name in how):
            return value
    return None


def measure(prepared: Prepared, backbone: Backbone) -> Coherence | None:
    """Compare a concept's pictures with what the base draws when it is not told what; warn where they differ as much.

    Args:
        prepared: What is learned.
        backbone: The base, with nothing learned on it.

    Returns:
        How alike they are; None where there is nothing to tell it with.
    """
    count, extractor = prepared.to_do.compared, prepared.extractor
    if not count or extractor is None:
        return None
    from conceptctl.metrics.coherence import coherence, similarity

    different = known(prepared.store, prepared.head, extractor.sha256)
    if different is None:
        sampling = preset_of(prepared.head.base).drawing
        prepared.watch.stage(DRAWING, count)
        sample = backbone.sampler(PROMPT, steps=sampling.steps, guidance=sampling.guidance)
        pictures = []
        for picture in draw_set(sample, count, accelerator=prepared.accelerator):
            pictures.append(picture)
            prepared.watch.advance(1)
        different = min(similarity(extractor.images(pictures)), 1 - 1e-6)
    own = extractor.images([each.image() for each in prepared.checked.pictures])
    found = Coherence(round(coherence(own, different), 3), round(different, 6), own)
    if text := differs_text(found.value):
        prepared.watch.warn(text)
    return found


def differs_text(value: Any) -> str:
    """Say of a coherence that pictures show different things; "" where they do not, or nobody knows."""
    if type(value) is not float or not value < LEAST:
        return ""
    return (
        f"its pictures are hardly more alike than pictures of different things (coherence {value:.2f}; of one thing "
        f"{LEAST} or more): there may be nothing that they all show"
    )
