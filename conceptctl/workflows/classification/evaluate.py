"""`eval` where classes are told apart: the accuracy of each task and class, and what was forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conceptctl.errors import PicturesRefused
from conceptctl.images import class_folders
from conceptctl.metrics.classification import share
from conceptctl.progress import Progress, ignore
from conceptctl.store.manifest import now
from conceptctl.store.store import Store
from conceptctl.workflows.classification.classify import picture_side
from conceptctl.workflows.classification.history import Tested, best, read_all
from conceptctl.workflows.classification.model import check_ready, probabilities
from conceptctl.workflows.classification.pictures import USUAL, Rules, folders_of, read_classes
from conceptctl.workflows.evaluate.history import commit, new_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conceptctl.store.concept import Record
    from conceptctl.store.manifest import Generation


@dataclass(frozen=True)
class TestedTask:
    """How one task fared."""

    record: Record
    tested: Tested
    best: float | None
    """The best accuracy of earlier tests on as many pictures; None where there is none."""

    @property
    def forgetting(self) -> float | None:
        """How far the best accuracy of earlier tests is above that of now; None where it cannot be said."""
        return None if self.best is None or self.tested.last else self.best - self.tested.accuracy


@dataclass(frozen=True)
class Evaluation:
    """How every task fared of which there are test pictures."""

    head: Generation
    """Whose classifier was tested."""
    committed: int | None
    """The generation that the accuracies are kept with; None where no task is there any more."""
    seen: int
    """Classes that a picture could be taken for."""
    tasks: tuple[TestedTask, ...]
    without: tuple[str, ...]
    """Classes of which there are no pictures."""
    strange: tuple[str, ...]
    """Folders that are called like no class."""
    skipped: tuple[str, ...]

    @property
    def average_accuracy(self) -> float:
        """The mean of the tasks' accuracies: A_N, where all were tested."""
        return sum(each.tested.accuracy for each in self.tasks) / len(self.tasks)

    @property
    def accuracy(self) -> float:
        """The share of all pictures that were told right."""
        correct, pictures = (
            sum(sum(part) for part in parts)
            for parts in zip(*((each.tested.correct, each.tested.pictures) for each in self.tasks), strict=True)
        )
        return share(correct, pictures)

    @property
    def forgetting(self) -> float | None:
        """The mean of the tasks' forgetting, where it can be said of any."""
        known = [each.forgetting for each in self.tasks if each.forgetting is not None]
        return sum(known) / len(known) if known else None


def evaluate(
    store: Store,
    folder: Path,
    *,
    rules: Rules = USUAL,
    device: str = "auto",
    wait: bool = False,
    progress: Progress = ignore,
) -> Evaluation:
    """Test what was learned on pictures of its classes, each taken for any class there is, and keep the accuracies.

    Args:
        store: The store.
        folder: With a folder for each class in it, or in `test` in it.
        rules: What is asked of pictures.
        device: "auto", "cpu" or "cuda".
        wait: Wait while somebody else changes the store.
        progress: Told of the classes whose pictures were looked at.

    Raises:
        UsageError: The store draws.
        NotFound: No class is learned.
        PicturesRefused: The folder holds something that is no usable picture, or no class that was learned.
        Busy: Somebody else changes the store.
        StoreDamaged: The base or a task is damaged.
        DeviceFailed: There is no such device, or memory ran out.
    """
    with store.reading() as head:
        records = check_ready(store, head, device)
        found = folders_of(folder, class_folders.TEST, follow=rules.follow_symlinks)
        known = [name for record in records for name in record.classes]
        folders = {name: found[name] for name in known if name in found}
        if not folders:
            raise PicturesRefused(
                f"no folder in {folder} is called like a class",
                hint=f"a folder of test pictures for each class: {folder}/{known[0]}/*.jpg",
            )
        pictures = read_classes(folders, picture_side(store, head), rules, fewest=1, progress=progress)
        names, likely = probabilities(store, head, records, pictures.pixels, device)
        correct = dict.fromkeys(known, 0)
        for label, place in zip(pictures.labels, likely.argmax(1).tolist(), strict=True):
            correct[label] += names[place] == label
        earlier = read_all(store.layout, head)
        tasks = _tasks(head, records, pictures.counts, correct, earlier)
    committed = commit(store, [(each.record.uid, each.tested) for each in tasks], wait=wait)
    return Evaluation(
        head,
        committed.seq if committed else None,
        len(known),
        tasks,
        tuple(name for name in known if name not in folders),
        tuple(sorted(set(found) - set(known))),
        pictures.skipped,
    )


def _tasks(
    head: Generation,
    records: Sequence[Record],
    pictures: Mapping[str, int],
    correct: Mapping[str, int],
    earlier: Sequence[tuple[str, Tested]],
) -> tuple[TestedTask, ...]:
    """Those tasks of which there are pictures, with what earlier tests found."""
    run, time, seen = new_run(), now(), sum(len(record.classes) for record in records)
    found = []
    for record in records:
        counts = tuple(pictures.get(name, 0) for name in record.classes)
        if not any(counts):
            continue
        right = tuple(correct[name] for name in record.classes)
        tested = Tested(run, head.seq, time, record is records[-1], seen, counts, right)
        before = [each for uid, each in earlier if uid == record.uid]
        found.append(TestedTask(record, tested, best(before, counts)))
    return tuple(found)
