"""What `show` and `log` say of the evaluations that are kept of a concept, or of a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store
from conceptctl.workflows.evaluate import history


@dataclass(frozen=True)
class Shown:
    """One evaluation of one concept."""

    generation: int
    time: str
    figures: dict[str, Any]
    """As `--json` prints them."""
    text: str
    """In one line."""


def evaluations_of(store: Store, head: Generation, uid: str, warn: Callable[[str], None]) -> list[Shown]:
    """Read the evaluations of a concept, oldest first; one that is damaged is warned of and left out."""
    if head.base.is_classifier:
        from conceptctl.workflows.classification import history as tests

        found = [each for _, each in tests.read_all(store.layout, head, uid, warn=warn)]
        return [
            Shown(each.generation, each.time, tests.as_dict(each), tests.summary(each, found[-1])) for each in found
        ]
    kept = [each for _, each in history.read_all(store.layout, head, uid, warn=warn)]
    return [Shown(each.generation, each.time, history.as_dict(each), history.summary(each, kept[-1])) for each in kept]
