"""The page: everything in one HTML file, pictures included, that asks nobody for anything."""

from __future__ import annotations

import base64
from importlib import resources
from typing import Any

from conceptctl.report.content import Chart, Picture, Report

TEMPLATE = "report.html.j2"


def page(report: Report) -> str:
    """Write a report as HTML; all text in it is escaped."""
    return rendered(TEMPLATE, report=report, charts=[chart for chart in report.charts if chart.tells])


def rendered(template: str, **values: Any) -> str:
    """Fill in one of the templates beside this file, with charts drawn and pictures in the page."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    from conceptctl.report import charts

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_source)
    )
    environment.filters.update({"as_url": as_url, "legend": charts.legend, "numbers": numbers})
    # What draws charts escapes what it writes.
    environment.filters["drawn"] = lambda chart: Markup(charts.draw(chart))  # noqa: S704
    return environment.get_template(template).render(looks=[*enumerate(charts.LOOKS)], **values)


def _source(template: str) -> str:
    return resources.files(__package__).joinpath(template).read_text(encoding="utf-8")


def as_url(picture: Picture) -> str:
    """Put a picture's bytes into the page itself."""
    return f"data:{picture.mime};base64,{base64.b64encode(picture.data).decode()}"


def numbers(chart: Chart) -> list[tuple[str, list[str]]]:
    """Return a chart's numbers as rows of a table: what stands below the axis, and a cell for each series."""
    places = sorted({x for series in chart.series for x, _ in series.points})
    rows = []
    for place in places:
        values = [dict(series.points).get(place) for series in chart.series]
        label = chart.names[int(place)] if chart.names else f"{place:g}"
        rows.append((label, ["" if value is None else f"{value:.4g}" for value in values]))
    return rows
