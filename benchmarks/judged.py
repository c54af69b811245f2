"""What several benchmarks share: pictures as `pocket` draws them, what the judge reads off them, settings as words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from conceptctl.config import Drawing
from conceptctl.diffusion.composition.regions import Prompt
from conceptctl.diffusion.prompts import token_of
from conceptctl.learning.backbone import Backbone
from conceptctl.pocket.judge import Reading
from conceptctl.pocket.train.data import to_signed, to_tensor
from conceptctl.pocket.world.concepts import Concept
from conceptctl.presets import shipped
from conceptctl.workflows.drawing import draw_set

CPU = torch.device("cpu")
SAMPLING = shipped()["pocket"].sampling


def draw(backbone: Backbone, prompt: Prompt, count: int) -> list[Image.Image]:
    """Draw the first pictures of a prompt's fixed set."""
    return list(draw_set(backbone.sampler(prompt, Drawing(SAMPLING.steps, SAMPLING.guidance)), count))


def read(judge: Any, pictures: Sequence[Image.Image]) -> list[Reading]:
    """What the judge reads off pictures."""
    readings: list[Reading] = judge.read(to_signed(to_tensor(list(pictures)), CPU))
    return readings


def attributes_read(reading: Reading, kind: str) -> dict[str, str]:
    """What is read of the first subject of a kind; nothing where there is none."""
    return next((seen.shown() for seen in reading.subjects if seen.kind == kind), {})


def attributes_right(readings: Sequence[Reading], concept: Concept) -> list[tuple[str, bool]]:
    """Of every picture each of a concept's attributes that show, and whether it is read right."""
    right = []
    for reading in readings:
        found = attributes_read(reading, concept.kind)
        right += [(name, found.get(name) == value) for name, value in concept.subject.shown().items()]
    return right


def token_number(tokenizer: Any, name: str) -> int:
    """The number of a concept's token."""
    number: int = tokenizer.convert_tokens_to_ids(token_of(tokenizer, name))
    assert number != tokenizer.unk_token_id, f"V*{name} has no token"
    return number


def setting(pair: str) -> tuple[str, Any]:
    """Read NAME=VALUE."""
    name, _, text = pair.partition("=")
    for kind in (int, float):
        try:
            return name, kind(text)
        except ValueError:
            continue
    return name, text
