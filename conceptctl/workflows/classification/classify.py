"""`classify`: what pictures show, among the classes that a store has learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conceptctl.errors import UsageError
from conceptctl.progress import Progress, ignore
from conceptctl.store import base
from conceptctl.store.store import Store
from conceptctl.workflows.classification.model import check_ready, probabilities
from conceptctl.workflows.classification.pictures import USUAL, Rules, read_pictures

if TYPE_CHECKING:
    from conceptctl.store.manifest import Generation


@dataclass(frozen=True)
class Classified:
    """One picture."""

    path: Path
    classes: tuple[tuple[str, float], ...]
    """The likeliest classes and their probabilities, among all that were learned; the likeliest first."""


@dataclass(frozen=True)
class Answers:
    """What pictures were taken for."""

    generation: Generation
    pictures: tuple[Classified, ...]
    skipped: tuple[str, ...]
    """Why pictures were left out."""


def classify(
    store: Store,
    paths: Sequence[Path],
    *,
    top: int = 1,
    at: int | None = None,
    rules: Rules = USUAL,
    device: str = "auto",
    progress: Progress = ignore,
) -> Answers:
    """Tell the classes of pictures.

    Args:
        store: The store.
        paths: Pictures, and folders of them.
        top: How many classes of each, at most.
        at: A generation; the newest by default.
        rules: What is asked of pictures.
        device: "auto", "cpu" or "cuda".
        progress: Told of the pictures that are read.

    Raises:
        UsageError: The store draws, or no class is asked for.
        NotFound: There is no such generation, or no class in it.
        PicturesRefused: Something is no usable picture.
        StoreDamaged: The base or a task is damaged.
        DeviceFailed: There is no such device, or memory ran out.
    """
    if top < 1:
        raise UsageError(f"1 or more classes are told of a picture, not {top}", hint="--top 1")
    with store.reading() as head:
        generation = head if at is None else store.drawable(at)
        records = check_ready(store, generation, device)
        side = picture_side(store, generation)
        found, pixels, skipped = read_pictures(paths, side, rules, progress=progress)
        names, found_likely = probabilities(store, generation, records, pixels, device)
    likely = found_likely.sort(dim=1, descending=True, stable=True)
    named = tuple(
        Classified(path, tuple((names[place], value) for place, value in zip(places, values, strict=True)))
        for path, places, values in zip(
            found, likely.indices[:, :top].tolist(), likely.values[:, :top].tolist(), strict=True
        )
    )
    return Answers(generation, named, skipped)


def picture_side(store: Store, generation: Generation) -> int:
    """The side of the pictures that a store's base is given, in pixels."""
    from conceptctl.families import vit

    return vit.picture_side(base.configs(store.layout, generation.base))
