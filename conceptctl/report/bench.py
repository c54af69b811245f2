"""The report of a benchmark: the same tables as HTML and as Markdown; in the HTML also charts and pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from conceptctl.report.content import Chart, Picture, Table
from conceptctl.report.page import rendered

TEMPLATE = "bench.html.j2"


@dataclass(frozen=True)
class Sheet:
    """Pictures as a grid: a row for each of what is compared, three columns."""

    title: str
    text: str
    columns: tuple[str, str, str]
    rows: tuple[tuple[str, tuple[Picture | None, ...]], ...]


@dataclass(frozen=True)
class Section:
    """One benchmark."""

    title: str
    text: str
    notes: tuple[str, ...]
    """What is to be read off the tables, and what is missing in them."""
    tables: tuple[Table, ...]
    charts: tuple[Chart, ...]
    sheets: tuple[Sheet, ...]
    facts: tuple[tuple[str, str], ...]
    """What it was made from, by name."""


@dataclass(frozen=True)
class BenchReport:
    """All benchmarks of a folder."""

    title: str
    text: str
    sections: tuple[Section, ...]


def html(report: BenchReport) -> str:
    """Write a report as one HTML file that asks nobody for anything; all text in it is escaped."""
    return rendered(TEMPLATE, report=report)


def markdown(report: BenchReport) -> str:
    """Write the text and the tables of a report as Markdown."""
    # What people call things is no HTML.
    return re.sub("<(?=[a-zA-Z/!?])", "&lt;", "\n".join(_lines(report))) + "\n"


def _lines(report: BenchReport) -> Iterator[str]:
    yield from (f"# {report.title}", "", report.text)
    for section in report.sections:
        yield from ("", f"## {section.title}", "", section.text)
        for note in section.notes:
            yield from ("", note)
        for table in section.tables:
            yield from ("", f"**{table.caption}**", "")
            yield from _table(table)
            for note in table.notes:
                yield from ("", note)
        yield ""
        for name, text in section.facts:
            yield f"- {name}: {text}"


def _table(table: Table) -> Iterator[str]:
    yield _row(table.columns)
    yield "|" + "---|" * len(table.columns)
    yield from (_row(row) for row in table.rows)


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
