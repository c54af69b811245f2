"""Accuracies that are kept: one small blob a task and run, attached to the generation that `eval` commits.

No class's name stands in it: counts are in the order in which the task's record names its classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from conceptctl.metrics.classification import share
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import Generation
from conceptctl.workflows.evaluate.history import attached


@dataclass(frozen=True)
class Tested:
    """One task's test in one run of `eval`."""

    run: str
    """The same for all tasks of a run, and random."""
    generation: int
    """Whose classifier was tested."""
    time: str
    """When, UTC."""
    last: bool
    """Whether nothing had been learned after the task, so that it does not count for forgetting."""
    seen: int
    """Classes that a picture could be taken for: all that were learned by then."""
    pictures: tuple[int, ...]
    """Test pictures of each class."""
    correct: tuple[int, ...]
    """How many of them were told right."""

    @property
    def accuracy(self) -> float:
        """The share of the task's pictures that were told right."""
        return share(sum(self.correct), sum(self.pictures))


def read_all(
    layout: Layout,
    generation: Generation,
    uid: str | None = None,
    *,
    warn: Callable[[str], None] = lambda text: None,
) -> list[tuple[str, Tested]]:
    """Read the tests that a generation holds, oldest first, each with its task's uid.

    Args:
        layout: The store.
        generation: Usually the head.
        uid: Only those of this task.
        warn: Called for each that is damaged, which then is left out: it stops nothing else.
    """
    return attached(layout, generation, uid, _tested, warn=warn)


def as_dict(tested: Tested) -> dict[str, Any]:
    """Return a test with all that it depends on."""
    return {**asdict(tested), "accuracy": tested.accuracy}


def summary(tested: Tested, newest: Tested) -> str:
    """Say a test in one line, and whether it can be compared with the newest one."""
    line = f"accuracy {100 * tested.accuracy:.1f} % of {sum(tested.pictures)} pictures, among {tested.seen} classes"
    return line if tested.pictures == newest.pictures else f"{line} (of other pictures than the newest)"


def best(earlier: Sequence[Tested], pictures: Sequence[int]) -> float | None:
    """The best accuracy of earlier tests on as many pictures of each class; None where there is none."""
    return max((each.accuracy for each in earlier if each.pictures == tuple(pictures)), default=None)


def _tested(entry: Mapping[str, Any]) -> Tested:
    return Tested(
        run=entry["run"],
        generation=entry["generation"],
        time=entry["time"],
        last=entry["last"],
        seen=entry["seen"],
        pictures=tuple(entry["pictures"]),
        correct=tuple(entry["correct"]),
    )
