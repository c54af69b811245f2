"""How far something is: one line that fits on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from conceptctl.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

MEGABYTE = 1_000_000
WIDEST_BAR, NARROWEST_BAR = 20, 5
_LINES = 10
"""How many lines a stage has at most where there is no terminal."""
_PATIENCE = 2.0
"""Seconds between two such lines: what is over in no time needs no report of it."""
_AT_ONCE = 0.05
"""What is told within so many seconds belongs together: what was done before a stage began, or the units of a batch."""


class Stage:
    """One thing that is going on: loading, drawing, learning.

    Attributes:
        text: What it is called.
        total: How many units of work it has; 0 where that is not known.
        done: How many of them are done.
        notes: What else is worth knowing, the most important first.
        ended: Whether its end was told.
    """

    def __init__(self, text: str, total: int, done: int, now: float) -> None:
        self.text, self.total, self.done = text, total, done
        self.notes: Sequence[str] = ()
        self.ended = False
        self._began = now
        self._updates = [(now, done)]
        """When how much was done: at the beginning, at the first update, and at the last."""

    def update(self, done: int, now: float) -> None:
        """So much is done now."""
        last = self._updates[-1][0]
        if now - self._began < _AT_ONCE:
            self._updates = [(now, done)]
        elif done > self.done and now - last < _AT_ONCE and len(self._updates) > 1:
            self._updates[-1] = (last, done)
        elif done > self.done:
            self._updates = [*self._updates[:2], (now, done)]
        self.done = done

    def seconds_left(self, now: float) -> float | None:
        """How long the rest takes at the pace so far; None while that is not known.

        The first units are often slow, since much is made ready in them: they do not count once others do.
        """
        if not self.total or len(self._updates) == 1:
            return None
        (begin, before), (end, done) = self._updates[-2:]
        if len(self._updates) == 3 and done - before < before - self._updates[0][1]:
            begin, before = self._updates[0]
        pace = (end - begin) / (done - before)
        return max(0.0, pace * (self.total - done) - (now - end))


class ProgressLine:
    """Shows the stage that something is in; a call makes one that begins with its first update."""

    def __init__(
        self, say: Callable[[str], None], console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin.

        Args:
            say: Prints a plain line.
            console: A terminal to draw the line on; None where plain lines are printed.
            clock: The time, in seconds.
        """
        self.ahead: float | None = 0.0
        """About how many seconds come after this stage; None where nobody knows: then what is left is the stage's."""
        self._say, self._console, self._clock = say, console, clock
        self._began = self._said = self._moved = clock()
        self._current: Stage | None = None
        self._new_notes: Sequence[str] = ()
        self._live: Live | None = None
        self._end: float | None = None
        """When everything will be done, as it was seen when the last stage ended."""

    def __call__(self, text: str) -> Progress:
        """Return what shows a stage once it is told how much of it is done."""
        stage: Stage | None = None
        made = self._clock()

        def update(done: int, total: int) -> None:
            nonlocal stage
            if stage is None or self._current is not stage:
                # What went on before its first unit was done belongs to it, but for what another stage took.
                stage = self.stage(text, total, began=max(made, self._moved))
            stage.total = total
            self.update(done)

        return update

    def stage(self, text: str, total: int = 0, done: int = 0, *, began: float | None = None) -> Stage:
        """Begin a stage.

        Args:
            text: What it is called.
            total: How many units of work it has; 0 where that is not known.
            done: How many an earlier run did.
            began: When it began, on the clock; now by default.
        """
        self._said = self._moved = self._clock()
        if self.ahead:
            self._end = self._moved + self.ahead
        self._new_notes = ()
        self._current = Stage(text, total, done, self._moved if began is None else began)
        if self._console is None:
            self._say(f"{text} ..." if not total else f"{text}: {total - done} to do")
        else:
            self._refresh()
        return self._current

    def shorten(self, total: int) -> None:
        """The stage has only so many units of work."""
        if self._current:
            self._current.total = total

    def update(self, done: int, notes: Sequence[str] = ()) -> None:
        """So much of the stage is done, counted from its beginning; what is noted stays until something else is."""
        stage = self._current
        if stage is None:
            return
        tenth = stage.done * _LINES // max(1, stage.total)
        self._moved = self._clock()
        stage.update(done, self._moved)
        stage.notes = notes or stage.notes
        self._new_notes = notes or self._new_notes
        if self._console is None:
            self._report(stage, done * _LINES // max(1, stage.total) > tenth)

    def _report(self, stage: Stage, is_next: bool) -> None:
        """Print a line, where it is time for one."""
        now = self._clock()
        at_end = stage.done >= stage.total and bool(self._new_notes) and not stage.ended
        if stage.total and (at_end or (is_next and now - self._said >= _PATIENCE and stage.done < stage.total)):
            self._said, stage.ended = now, at_end
            parts = [f"{stage.text}: {stage.done} of {stage.total}", *self._times(stage, now), *self._new_notes]
            self._new_notes = ()
            self._say(", ".join(parts))

    def _times(self, stage: Stage, now: float) -> list[str]:
        times = [f"{clock_text(now - self._began)} elapsed"]
        left = stage.seconds_left(now)
        if left is not None and self.ahead is not None:
            times.append(f"{clock_text(left + self.ahead)} left")
        elif self._end is not None:
            times.append(f"{clock_text(max(0.0, self._end - now))} left")
        elif left is not None:
            times.append(f"{clock_text(left)} left in stage")
        return times

    def _refresh(self) -> None:
        if self._live is None:
            from rich.live import Live

            # What goes to stdout may go elsewhere than to this terminal.
            self._live = Live(
                get_renderable=self._line,
                console=self._console,
                transient=True,
                refresh_per_second=4,
                redirect_stdout=False,
            )
            self._live.start()
        self._live.refresh()

    def refresh(self) -> None:
        """Draw the line now; it is drawn a few times a second anyway."""
        if self._live:
            self._live.refresh()

    def close(self) -> None:
        """Take the line away."""
        if self._live:
            self._live.stop()
            self._live = None

    def _line(self) -> Text:
        from rich.text import Text

        if self._current is None or self._console is None:
            return Text()
        times = self._times(self._current, self._clock())
        plain = not str(self._console.encoding).lower().startswith("utf")
        pieces = fitted(self._current, times, self._console.width - 1, plain=plain)
        return Text.assemble(*pieces, no_wrap=True, overflow="crop")


def in_megabytes(progress: Progress) -> Progress:
    """Return what is told bytes and tells megabytes, begun ones counted: ten digits say nothing to anybody."""
    return lambda done, total: progress(-(-done // MEGABYTE), -(-total // MEGABYTE))


def clock_text(seconds: float) -> str:
    """Return a span of time as a clock shows it: 0:07, 12:30, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def fitted(stage: Stage, times: Sequence[str], width: int, *, plain: bool = False) -> list[tuple[str, str]]:
    """Return a stage's line, as pieces of text and their styles, in no more than so many columns.

    What goes first where there is no room: notes but the first, the bar's length, the count, the end of the stage's
    name, the bar, the time that has passed.
    """
    share = min(1.0, stage.done / stage.total) if stage.total else None
    percent = [] if share is None else [f"{100 * share:.0f} %"]
    count = f" {stage.done}/{stage.total}" if stage.total else ""
    kept, notes = list(times), list(stage.notes[:1])

    def room(head: str) -> int:
        """The columns that a name leaves for a bar with a space before it."""
        tail = "  ".join([", ".join(kept), *notes])
        return width - len("  ".join([" ".join([head, *percent]), tail]))

    head = stage.text + count
    if share is not None and room(head) < NARROWEST_BAR + 1:
        head = stage.text
    shortest = min(len(head), 12)
    if (missing := NARROWEST_BAR + 1 - room(head) if share is not None else -room(head)) > 0:
        head = _shortened(head, max(shortest, len(head) - missing))
    if len(kept) > 1 and room(head) < 0:
        kept = kept[1:]
    bar = min(WIDEST_BAR, room(head) - 1) if share is not None else 0
    bar = bar if bar >= NARROWEST_BAR else 0
    free = room(head) - (bar + 1 if bar else 0)
    for note in stage.notes[1:]:
        free -= len(note) + 2
        if free < 0:
            break
        notes.append(note)
    pieces = [(head, "bold")]
    if bar and share is not None:
        full = round(share * bar)
        done, rest = ("#", "-") if plain else ("━", "─")
        pieces += [(" ", ""), (done * full, "cyan"), (rest * (bar - full), "dim")]
    pieces += [(f" {each}", "cyan") for each in percent]
    return [*pieces, ("  " + ", ".join(kept), ""), *((f"  {note}", "") for note in notes)]


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def terminal() -> Console | None:
    """Return stderr as a terminal that a line can be drawn on; None where it is none, or none that is wanted."""
    from rich.console import Console

    console = Console(stderr=True)
    wanted = console.is_terminal and not console.is_dumb_terminal and not os.environ.get("NO_COLOR")
    return console if wanted else None


@contextmanager
def progress(say: Callable[[str], None], console: Console | None) -> Iterator[ProgressLine]:
    """Show how far something is, until it is done."""
    shown = ProgressLine(say, console)
    try:
        yield shown
    finally:
        shown.close()
