"""What a report shows, as plain data; all text in it is escaped when it is written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows under a row of headers; the first cell of a row is its header."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    """Paragraphs under it."""
    explained: bool = False
    """Whether its last column is text and not numbers."""


@dataclass(frozen=True)
class Picture:
    """One picture, as a file of some kind."""

    label: str
    """Under it; may be empty."""
    description: str
    """What somebody is told who cannot see it."""
    mime: str
    data: bytes
    size: tuple[int, int]
    """Width and height, in pixels."""


@dataclass(frozen=True)
class Strip:
    """Pictures of one kind, side by side."""

    label: str
    text: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Card:
    """One subject: what became of it, and its pictures."""

    name: str
    kind: str
    tone: str
    """`good`, `fair`, `bad` or `unknown`: how its verdict is marked, besides its words."""
    verdict: str
    sentence: str
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class Series:
    """Values along one axis.

    Attributes:
        label: What it is called.
        points: x and y, by rising x.
        error: Half the height of an error bar or band at each point; none by default.
        main: Whether it is the one to look at, as a mean among single values.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    error: tuple[float, ...] = ()
    main: bool = False


@dataclass(frozen=True)
class Chart:
    """Series over one axis.

    Attributes:
        kind: `lines`, for one thing over time; `points` or `bars`, for different things side by side.
        names: What stands below the values 0, 1, ... of the axis, in the place of numbers.
    """

    title: str
    text: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    kind: str = "lines"
    names: tuple[str, ...] = ()

    @property
    def tells(self) -> bool:
        """Whether there is anything to compare: at least two places on the axis."""
        return len({x for each in self.series for x, _ in each.points}) > 1


@dataclass(frozen=True)
class Report:
    """One page."""

    title: str
    text: str
    summary: tuple[tuple[str, str], ...]
    """Tone and words: how many subjects fared how."""
    cards: tuple[Card, ...]
    beside: tuple[Strip, ...]
    """Pictures of prompts that say more than one subject's name."""
    notes: tuple[str, ...]
    """What to know before the figures are read."""
    facts: tuple[tuple[str, str], ...]
    """What it was made from, by name."""
    tables: tuple[Table, ...]
    charts: tuple[Chart, ...]
