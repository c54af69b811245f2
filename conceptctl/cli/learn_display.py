"""How `learn` shows how far it is: a bar on a terminal, a few lines elsewhere, grids of previews."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptctl.cli.output import Output

if TYPE_CHECKING:
    from PIL.Image import Image

    from conceptctl.learning.run import Report
    from conceptctl.workflows.learn.request import Watch

PREVIEW_FOLDER = Path("conceptctl-out")
_LINES = 10
"""How many lines of progress are printed where there is no terminal."""


class Display:
    """Shows how learning goes: a bar on a terminal, a few lines elsewhere."""

    def __init__(self, out: Output, name: str, bar: Any) -> None:
        self.out, self.name, self.bar = out, name, bar
        self.task: Any = None
        self.total = 0
        self.done = 0
        self.previews: list[Path] = []
        self.estimated = False

    def watch(self, preview: bool) -> Watch:
        """What the workflow tells this display."""
        from conceptctl.workflows.learn.request import Watch

        return Watch(
            stage=self.stage,
            advance=self.advance,
            report=self.report,
            warn=self.out.warn,
            preview=self.preview if preview and not self.out.silent else None,
        )

    def stage(self, what: str, total: int) -> None:
        """Begin a stage."""
        self.total, self.done = total, 0
        if self.bar is None or self.bar.disable:
            self.out.say(f"{what} ..." if not total else f"{what}: {total} to do")
            return
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task(what, total=total or None, note="")

    def advance(self, done: int) -> None:
        """Some units more are done."""
        self.done += done
        if self.task is not None:
            self.bar.update(self.task, completed=self.done)

    def report(self, report: Report) -> None:
        """Show losses and measures."""
        begun = self.done
        self.done = report.step
        parts = [f"{name} {value:.4f}" for name, value in report.losses.items()]
        # Behind the loss itself: its parts may not be seen.
        parts[1:1] = [f"{name} {100 * value:.0f} %" for name, value in report.measures.items() if name == "density"]
        note = "  ".join(parts)
        if self.task is not None:
            self.bar.update(self.task, completed=self.done, note=note)
            return
        if not self.estimated:
            left = report.seconds / max(1, report.step - begun) * (self.total - report.step)
            self.out.say(f"about {duration(left)} left")
            self.estimated = True
        elif report.step * _LINES // self.total > begun * _LINES // self.total:
            self.out.say(f"step {report.step} of {self.total}  {note}")

    def preview(self, step: int, pictures: list[Image]) -> None:
        """Write a grid."""
        from conceptctl.images.contact_sheet import contact_sheet
        from conceptctl.images.png import made_by_a_model

        stamp = time.strftime("%Y%m%d-%H%M%S")
        path = PREVIEW_FOLDER / f"{self.name}-step-{step}-{stamp}.png"
        try:
            PREVIEW_FOLDER.mkdir(parents=True, exist_ok=True)
            contact_sheet(pictures).save(path, pnginfo=made_by_a_model())
        except OSError as error:
            # Hours of training are worth more than a picture of them.
            self.out.warn(f"no preview at {path}: {error.strerror or error}")
            return
        self.previews.append(path)
        self.out.say(f"preview: {path}")


def duration(seconds: float) -> str:
    """Say a time for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
