"""What `eval` is asked for, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from conceptctl.store.manifest import Generation
from conceptctl.workflows.evaluate.history import Kept

if TYPE_CHECKING:
    from PIL import Image

    from conceptctl.workflows.evaluate.weight_history import Step


@dataclass(frozen=True)
class Request:
    """What to evaluate, and how."""

    folder: Path | None = None
    """Holds a folder of held-out pictures for each concept."""
    images: Mapping[str, Path] = field(default_factory=dict)
    """Folders for single concepts, by name."""
    count: int | None = None
    """Pictures drawn of each concept; as many as there are reference samples by default."""
    feature_extractor: str | None = None
    """A folder or a hub id of a CLIP model; the base's own by default."""
    skip_bad: bool = False
    first_frame: bool = False
    follow_symlinks: bool = False
    report: Path | None = None
    """A file for the report, which must not be there yet."""


@dataclass(frozen=True)
class Watch:
    """Who is told what meanwhile."""

    stage: Callable[[str, int], None] = lambda what, total: None
    """A new stage begins, with so many units of work; 0 where that is not known."""
    advance: Callable[[int], None] = lambda done: None
    """So many more units of the stage are done."""
    warn: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Shown:
    """Some of a concept's pictures, for a report."""

    heldout: tuple[Image.Image, ...] = ()
    after_learning: tuple[Image.Image, ...] = ()
    current: tuple[Image.Image, ...] = ()


@dataclass(frozen=True)
class Beside:
    """Pictures of a prompt that says more than a concept's name, for a report."""

    prompt: str
    names: tuple[str, ...]
    """The concepts in it."""
    pictures: tuple[Image.Image, ...]
    """By seed, from 0."""


@dataclass(frozen=True)
class Parameters:
    """N_param: how much was trained and is kept, in % of the U-Net; None where no record says it."""

    trained: float | None
    """In the U-Net, which is what the papers' tables count."""
    trained_in_all: float | None
    """With what made the token."""
    stored: float | None
    """Weights of the U-Net that are kept changed; None for a concept that was consolidated with others."""


@dataclass(frozen=True)
class Measured:
    """One concept, measured."""

    uid: str
    name: str
    class_word: str
    kept: Kept
    parameters: Parameters
    shown: Shown = Shown()


@dataclass(frozen=True)
class Evaluation:
    """What a run of `eval` found."""

    head: Generation
    """With which the pictures were drawn."""
    committed: int | None
    """The generation that keeps the figures; None when no concept was left to keep them with."""
    measured: tuple[Measured, ...]
    """In the order of learning."""
    averages: Mapping[str, float | None]
    parameters: Parameters
    """`trained`: the mean over concepts; `stored`: all of them together."""
    rbf: Mapping[str, float | None]
    steps: tuple[Step, ...]
    """What every concept of the store did to the weights, in the order of learning."""
    introduced_in: Mapping[str, int]
    """The generation that brought each concept, by uid."""
    left_out: tuple[str, ...]
    """Concepts without held-out pictures."""
    beside: tuple[Beside, ...] = ()
    """Prompts beside each concept, and pairs of concepts; drawn for a report only."""
    report: Path | None = None

    @property
    def alike(self) -> bool:
        """Whether all concepts were measured with equally many pictures, so that their figures have a mean."""
        return len({(each.kept.drawn, each.kept.heldout) for each in self.measured}) == 1
