"""Pictures with their prompts, made into what a training draws from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import torch
from PIL import ImageOps

from conceptctl.diffusion.latents import TOGETHER
from conceptctl.learning.backbone import Crop
from conceptctl.learning.examples import Examples
from conceptctl.workflows.learn import descriptions
from conceptctl.workflows.learn.auxiliary import prompt_of
from conceptctl.workflows.learn.plan import prompts_of

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from conceptctl.images.gate import Checked
    from conceptctl.learning.backbone import Backbone
    from conceptctl.learning.method import Method
    from conceptctl.metrics.features import FeatureExtractor
    from conceptctl.workflows.learn.request import Request, Watch


@dataclass(frozen=True)
class Dataset:
    """What a training draws from, and what it is said to be."""

    examples: Examples
    prompts: tuple[str, ...]
    """The different prompts of the concept's pictures."""
    notes: tuple[str, ...]


def make_dataset(
    backbone: Backbone,
    request: Request,
    method: Method,
    checked: Checked,
    *,
    describer: FeatureExtractor | None,
    auxiliary: Tensor | None,
    auxiliary_side: int,
    watch: Watch,
) -> Dataset:
    """Say what each picture shows, and encode everything that a concept is learned from.

    Args:
        backbone: The model, which has the concept's token.
        request: What is learned.
        method: With what.
        checked: The pictures.
        describer: What says what is around the concept where there is no caption; None for nothing.
        auxiliary: The latents of auxiliary pictures.
        auxiliary_side: Of those pictures, in pixels.
        watch: Is told what is going on.
    """
    pictures = [picture.image() for picture in checked.pictures]
    prompts = [[prompt] for prompt in prompts_of(request, method, checked)]
    notes = checked.notes
    if describer:
        watch.stage("describing the pictures", 0)
        around = _describe(backbone, describer, checked, pictures, prompts, request.class_word)
        notes = (*notes, descriptions.summary(around))
    different = tuple(dict.fromkeys(chain.from_iterable(prompts)))
    watch.stage("encoding the pictures", len(pictures) * (2 if request.flip else 1))
    crops = [Crop.middle(picture.size, picture.bucket) for picture in checked.pictures]
    square = (auxiliary_side, auxiliary_side)
    beside = None
    if auxiliary is not None:
        beside = auxiliary, prompt_of(request.class_word), Crop.middle(square, square)
    examples = gather(backbone, pictures, prompts, crops, flip=request.flip, auxiliary=beside, progress=watch.advance)
    return Dataset(examples, different, notes)


def _describe(
    backbone: Backbone,
    describer: FeatureExtractor,
    checked: Checked,
    pictures: Sequence[Image.Image],
    prompts: list[list[str]],
    class_word: str,
) -> list[str]:
    """Add to the prompts of pictures without a caption what is around the concept; return that."""
    silent = [index for index, picture in enumerate(checked.pictures) if not picture.caption]
    shown = [pictures[index] for index in silent]
    around = descriptions.surroundings(describer, backbone.tokenizer(), shown, class_word)
    for index, phrase in zip(silent, around, strict=True):
        prompts[index] = descriptions.described(prompts[index][0], phrase)
    return around


def gather(
    backbone: Backbone,
    pictures: Sequence[Image.Image],
    prompts: Sequence[Sequence[str]],
    crops: Sequence[Crop],
    *,
    flip: bool,
    auxiliary: tuple[Tensor, str, Crop] | None,
    progress: Callable[[int], None] = lambda encoded: None,
) -> Examples:
    """Encode everything that a concept is learned from.

    Args:
        backbone: What encodes.
        pictures: The concept's.
        prompts: Of each picture, one or more.
        crops: How each picture was made.
        flip: Whether mirrored pictures count as well.
        auxiliary: The latents of auxiliary pictures, the prompt of all of them, and how they were made.
        progress: Told of every few more that are encoded.
    """
    shown, of_each, framed = list(pictures), list(prompts), list(crops)
    if flip:
        # What is cut off on the left is as much as on the right.
        shown += [ImageOps.mirror(picture) for picture in shown]
        of_each, framed = of_each * 2, framed * 2
    # Every picture counts alike, however many prompts it has.
    times = math.lcm(*map(len, of_each))
    encoded = _encoded(backbone, shown, progress)
    latents = [each for each in encoded for _ in range(times)]
    framed = [each for each in framed for _ in range(times)]
    said = [prompt for own in of_each for prompt in (*own,) * (times // len(own))]
    concept = len(said)
    if auxiliary is not None:
        drawn, prompt, crop = auxiliary
        latents += drawn.to(latents[0].device).unbind()
        said += [prompt] * len(drawn)
        framed += [crop] * len(drawn)
    alike = len({each.shape for each in latents}) == 1
    return Examples(torch.stack(latents) if alike else latents, said, concept, framed)


def _encoded(backbone: Backbone, pictures: Sequence[Image.Image], progress: Callable[[int], None]) -> list[Tensor]:
    """The latents (C, H, W) of pictures, those of one size encoded together."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, picture in enumerate(pictures):
        groups.setdefault(picture.size, []).append(index)
    found: dict[int, Tensor] = {}
    for group in groups.values():
        # As many as a backbone encodes together: the latents are the same to the bit.
        for start in range(0, len(group), TOGETHER):
            together = group[start : start + TOGETHER]
            found |= zip(together, backbone.encode([pictures[index] for index in together]), strict=True)
            progress(len(together))
    return [found[index] for index in range(len(pictures))]
