"""What a training leaves for people while it goes on: pictures with their step, losses as CSV and TensorBoard events.

Every run has a folder of its own, called as its concept: `alice`, then `alice.2` for the next one. A run that goes on
writes on in the folder that it began, and no step stands in it twice.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from conceptctl.learning.run import Report

EXTRA = "tensorboard"
"""The optional extra that brings what writes events."""
_MARK = ".run"
"""The file that says which run a folder is of."""


class Journal:
    """One run's folder. Nothing that goes wrong with it stops a training: hours of that are worth more."""

    def __init__(
        self, root: Path, name: str, run: str, *, losses: bool, reached: int | None, warn: Callable[[str], None]
    ) -> None:
        """Choose the folder; it is made when something is written.

        Args:
            root: Where runs have their folders.
            name: The concept.
            run: What the run is known by; the same when it goes on.
            losses: Whether losses are written too.
            reached: The step, of all phases, from which it goes on; None for a new run.
            warn: Told what could not be written.
        """
        self.folder = _folder(root, name, run)
        self._name, self._run, self._losses, self._warn = name, run, losses, warn
        self._reached = reached
        self._begin = self._steps = 0
        self._phase = ""
        self._columns: Sequence[str] = ()
        self._events: Any = None
        if losses:
            with self._may_fail():
                self._make_folder()
                self._events = self._open_events()

    def _open_events(self) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._warn(
                f"losses are written as CSV only: there is no tensorboard here (pip install 'conceptctl[{EXTRA}]')"
            )
            return None
        # What an interrupted run had written beyond its last saved step is written again.
        purge = None if self._reached is None else self._reached + 1
        return SummaryWriter(str(self.folder), purge_step=purge)

    def _make_folder(self) -> None:
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            (self.folder / _MARK).write_text(self._run, encoding="utf-8")

    def phase(self, name: str, steps: int, done: int) -> None:
        """A phase begins, or goes on after so many of its steps."""
        self._begin = self._reached - done if self._reached is not None else self._begin + self._steps
        self._reached = None
        self._phase, self._steps, self._columns = name, steps, ()
        if self._losses and done and self._table.exists():
            self._kept_to(done)

    def ending(self, steps: int) -> None:
        """The phase has so many steps, and no more."""
        self._steps = steps

    @property
    def _table(self) -> Path:
        return self.folder / f"{_slug(self._phase)}.csv"

    def _kept_to(self, done: int) -> None:
        """Take out the rows behind the last saved step, which come again."""
        with self._may_fail(), self._table.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
            kept = [row for row in rows[1:] if row[0].isdecimal() and int(row[0]) <= done]
            scratch = self._table.with_suffix(".tmp")
            with scratch.open("w", encoding="utf-8", newline="") as out:
                csv.writer(out).writerows([*rows[:1], *kept])
            os.replace(scratch, self._table)  # noqa: PTH105 - as everywhere here
            self._columns = rows[0] if rows else ()

    def report(self, report: Report) -> None:
        """Write down losses and measures."""
        if not self._losses:
            return
        values = {**report.losses, **report.measures}
        with self._may_fail():
            self._row({"step": report.step, **{name: f"{value:.6g}" for name, value in values.items()}})
            if self._events:
                for name, value in values.items():
                    self._events.add_scalar(f"{self._phase}/{name}", value, self._begin + report.step)
                self._events.flush()

    def _row(self, row: Mapping[str, object]) -> None:
        self._make_folder()
        is_new = not self._columns
        self._columns = self._columns or tuple(row)
        # A table of an earlier run of this phase, which was begun anew, is none of this one's.
        with self._table.open("w" if is_new else "a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="", extrasaction="ignore")
            if is_new:
                writer.writeheader()
            writer.writerow(row)

    def picture(self, step: int, prompt: str, picture: Image.Image, info: PngInfo) -> Path | None:
        """Write a picture that was drawn after a step of the phase.

        Args:
            step: The step.
            prompt: What tells it from others of the same step; "" for the concept's own prompt.
            picture: The picture.
            info: What the file says of it.

        Returns:
            Where it is; None where it could not be written.
        """
        number = f"{step:0{len(str(self._steps))}}"
        phase = () if self._phase == "learning" else (_slug(self._phase),)
        parts = (self._name, *phase, "step", number, *([_slug(prompt)] if prompt else ()))
        path = self.folder / ("-".join(parts) + ".png")
        from conceptctl.images.writing import encoded

        with self._may_fail():
            self._make_folder()
            part = path.with_suffix(".tmp")
            part.write_bytes(encoded(picture, "PNG", info=info))
            part.replace(path)
            if self._events:
                import numpy as np

                tag = prompt or "the concept"
                self._events.add_image(tag, np.asarray(picture), self._begin + step, dataformats="HWC")
            return path
        return None

    def close(self) -> None:
        """Finish the files."""
        if self._events:
            with self._may_fail():
                self._events.close()

    def _may_fail(self) -> _MayFail:
        return _MayFail(self)

    def failed(self, error: OSError) -> None:
        """Say that something could not be written, and write no more losses."""
        self._warn(f"not written in {self.folder}: {error.strerror or error}; the training goes on")
        self._losses, self._events = False, None


class _MayFail:
    """A context in which the disk may refuse."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, OSError):
            self._journal.failed(error)
            return True
        return False


def _folder(root: Path, name: str, run: str) -> Path:
    """The folder that a run began, or else the first that is not there."""
    number, folder = 1, root / name
    while folder.exists():
        mark = folder / _MARK
        if mark.is_file() and mark.read_text(encoding="utf-8", errors="replace") == run:
            return folder
        number += 1
        # No concept's name has a full stop in it.
        folder = root / f"{name}.{number}"
    return folder


def _slug(text: str) -> str:
    """A text as a part of a file's name."""
    kept = "".join(letter if letter.isalnum() else " " for letter in text.replace("V*", ""))
    return "_".join(kept.split())[:40] or "prompt"
