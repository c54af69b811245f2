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
class Sheet:
    """Pictures of one kind, side by side in one PNG file."""

    label: str
    description: str
    """What somebody is told who cannot see it."""
    png: bytes
    size: tuple[int, int]
    """Width and height, in pixels."""


@dataclass(frozen=True)
class Subject:
    """One concept's pictures."""

    name: str
    text: str
    sheets: tuple[Sheet, ...]


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    label: str
    points: tuple[tuple[float, float], ...]
    """x and y, by rising x."""
    main: bool = False
    """Whether it is the one to look at, as a mean among single values."""


@dataclass(frozen=True)
class Chart:
    """Lines over one axis."""

    title: str
    text: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Report:
    """One page."""

    title: str
    text: str
    facts: tuple[tuple[str, str], ...]
    """What it was made from, by name."""
    tables: tuple[Table, ...]
    charts: tuple[Chart, ...]
    subjects: tuple[Subject, ...]
