"""Reference samples: what a concept looked like when it had just been learned, kept as features or drawn once more."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conceptctl.diffusion.prompts import MARKER, mentioned
from conceptctl.methods import METHODS, find_method
from conceptctl.presets import preset_of
from conceptctl.store.concept import Record
from conceptctl.store.manifest import Base, Concept
from conceptctl.store.store import Store

if TYPE_CHECKING:
    from torch import Tensor

    from conceptctl.metrics.features import FeatureExtractor

PLACEHOLDER_NAME = "{}"
"""What stands in a recipe where the concept's name goes."""
PLACEHOLDER = MARKER + PLACEHOLDER_NAME
PROMPT = f"a photo of a {PLACEHOLDER}"
"""What is drawn of a concept whose record does not say."""
LONGEST = 1000
"""Characters of a prompt that a record may ask for."""


@dataclass(frozen=True)
class Recipe:
    """How a concept's fixed pictures are drawn: now as they were then."""

    prompt: str
    """With `V*{}` where the concept's name goes."""
    steps: int
    guidance: float
    recorded: bool
    """Whether the concept's record says so; else it is the base's default."""

    def prompt_for(self, name: str) -> str:
        """What is drawn."""
        return self.prompt.replace(PLACEHOLDER, MARKER + name)

    def plain(self, class_word: str) -> str:
        """The same prompt in words that CLIP knows; empty when there is no word for the concept."""
        if not class_word:
            return ""
        # Some methods say the class word beside the token already.
        if f"{PLACEHOLDER} {class_word}" in self.prompt:
            return self.prompt.replace(f"{PLACEHOLDER} {class_word}", class_word)
        return self.prompt.replace(PLACEHOLDER, class_word)


def recipe_of(record: Record, base: Base) -> Recipe:
    """Return how a concept's reference samples were drawn, or how they would have been.

    A record may come from a file of somebody else's, so its values count only if they can be meant.
    """
    prompt, steps, guidance = (_said(record, what) for what in ("prompt", "steps", "guidance"))
    if (
        isinstance(prompt, str)
        and len(prompt) <= LONGEST
        and prompt.isprintable()
        and re.search(rf"(?<![\w-]){re.escape(PLACEHOLDER)}(?![\w-])", prompt)
        and prompt.upper().count(MARKER) == 1
        and type(steps) is int
        and 1 <= steps <= 1000
        and isinstance(guidance, int | float)
        and 0 <= guidance <= 100
    ):
        return Recipe(prompt, steps, float(guidance), recorded=True)
    sampling = preset_of(base).sampling
    return Recipe(_prompt_of(record), sampling.steps, sampling.guidance, recorded=False)


def _said(record: Record, what: str) -> Any:
    """What a record says of reference samples; earlier versions called them remembered."""
    return record.settings.get(f"reference_{what}", record.settings.get(f"remembered_{what}"))


def _prompt_of(record: Record) -> str:
    """What a concept's method learns it under."""
    if record.method not in METHODS:
        return PROMPT
    filled = find_method(record.method).prompt.format_map({"token": PLACEHOLDER, "word": word_of(record)})
    return " ".join(filled.split())


def word_of(record: Record) -> str:
    """What kind of thing a concept is; "" where that is no plain text, as in somebody else's file."""
    word = record.class_word
    plain = word.isprintable() and word == " ".join(word.split()) and len(word) <= LONGEST and not mentioned(word)
    return word if plain else ""


def reference_features(
    store: Store, concept: Concept, record: Record, extractor: FeatureExtractor, device: str
) -> Tensor | None:
    """Return the features kept when a concept was learned, (pictures, D); None when they cannot be compared.

    Features of another extractor cannot, nor those of pictures that another kind of device drew in other precision.

    Raises:
        StoreDamaged: The concept's file is damaged.
    """
    import torch

    from conceptctl.store import tensorfile, weights

    path = store.blob(concept, read=True)
    info = tensorfile.read_header(path).tensors.get("features")
    drawn_on = _said(record, "device") or device
    if info is None or record.settings.get("feature_extractor") != extractor.sha256 or drawn_on != device:
        return None
    found: Any = torch.from_numpy(weights.read_floats(path, "features"))
    features: Tensor = found
    return features if features.shape[1] == extractor.width else None


def introduced_in(store: Store) -> dict[str, int]:
    """Return the generation that brought each concept, by uid; those whose manifest is lost are missing.

    Raises:
        StoreDamaged: A manifest is not as it was committed.
    """
    found: dict[str, int] = {}
    for row in store.log():
        if row.verb in ("learn", "import"):
            concepts = store.generation(row.seq).concepts
            # Whatever is brought comes last, so a later generation is never taken for one that is lost.
            if concepts:
                found.setdefault(concepts[-1].uid, row.seq)
    return found
