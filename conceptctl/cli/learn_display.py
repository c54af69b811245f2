"""How `learn` shows how far it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from conceptctl.cli.learn_text import fit_text, work_text
from conceptctl.cli.output import Output

if TYPE_CHECKING:
    from conceptctl.cli.progress import ProgressLine
    from conceptctl.learning.run import Report
    from conceptctl.workflows.learn.estimate import Estimate
    from conceptctl.workflows.learn.memory import Fit
    from conceptctl.workflows.learn.request import Watch


class Display:
    """Shows how learning goes."""

    def __init__(self, out: Output, shown: ProgressLine) -> None:
        self.out, self.shown = out, shown
        self.done = 0
        self.samples: list[Path] = []

    def watch(self) -> Watch:
        """What the workflow tells this display."""
        from conceptctl.workflows.learn.request import Watch

        return Watch(
            stage=self.stage,
            ending=self.ending,
            advance=self.advance,
            report=self.report,
            step=self.step,
            ahead=self.ahead,
            warn=self.out.warn,
            sample=self.sample,
            expected=self.expected,
            fitted=self.fitted,
        )

    def fitted(self, fit: Fit) -> None:
        """Say how a step is fitted into memory."""
        self.out.say(fit_text(fit))

    def expected(self, expected: Estimate) -> None:
        """Say before anything expensive what the run is made of."""
        self.out.say(work_text(expected))

    def stage(self, what: str, total: int) -> None:
        """Begin a stage; what comes after it is not known until somebody says so."""
        self.done = 0
        self.shown.stage(what, total)
        self.shown.ahead = None

    def ending(self, total: int) -> None:
        """The stage is shorter than was thought."""
        self.shown.shorten(total)

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

    def sample(self, path: Path) -> None:
        """Pictures of a step were written."""
        self.samples.append(path)
        self.out.say(f"sample: {path}")
