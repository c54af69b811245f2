"""How `learn` shows how far it is, and grids of previews."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from conceptctl.cli.output import Output

if TYPE_CHECKING:
    from PIL.Image import Image

    from conceptctl.cli.progress import Progress
    from conceptctl.learning.run import Report
    from conceptctl.workflows.learn.request import Watch

PREVIEW_FOLDER = Path("conceptctl-out")


class Display:
    """Shows how learning goes."""

    def __init__(self, out: Output, name: str, shown: Progress) -> None:
        self.out, self.name, self.shown = out, name, shown
        self.done = 0
        self.previews: list[Path] = []

    def watch(self, preview: bool) -> Watch:
        """What the workflow tells this display."""
        from conceptctl.workflows.learn.request import Watch

        return Watch(
            stage=self.stage,
            advance=self.advance,
            report=self.report,
            step=self.step,
            ahead=self.ahead,
            warn=self.out.warn,
            preview=self.preview if preview and not self.out.silent else None,
        )

    def stage(self, what: str, total: int) -> None:
        """Begin a stage; what comes after it is not known until somebody says so."""
        self.done = 0
        self.shown.ahead = None
        self.shown.stage(what, total)

    def ahead(self, seconds: float) -> None:
        """So long is what comes after this stage."""
        self.shown.ahead = seconds

    def advance(self, done: int) -> None:
        """Some units more are done."""
        self.done += done
        self.shown.update(self.done)

    def step(self, done: int) -> None:
        """So many steps are done."""
        self.done = done
        self.shown.update(done)

    def report(self, report: Report) -> None:
        """Show losses and measures."""
        self.done = report.step
        notes = [f"{name} {value:.4f}" for name, value in report.losses.items()]
        # Behind the loss itself: its parts may not be seen.
        notes[1:1] = [f"{name} {100 * value:.0f} %" for name, value in report.measures.items() if name == "density"]
        self.shown.update(self.done, notes)

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
