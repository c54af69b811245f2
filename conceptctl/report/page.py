"""The page: everything in one HTML file, pictures included, that asks nobody for anything."""

from __future__ import annotations

import base64
from html import escape

from conceptctl.report import chart
from conceptctl.report.content import Report, Sheet, Subject, Table

# Colours that people who confuse red and green tell apart, each with dashes of its own besides.
_LIGHT = ("#0b62a4", "#c2410c", "#0f766e", "#a21caf", "#7a5901", "#4d7c0f", "#be123c", "#4338ca")
_DARK = ("#6cb6ff", "#fb923c", "#2dd4bf", "#e879f9", "#facc15", "#a3e635", "#fb7185", "#a5b4fc")
_DASHES = ("none", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 3", "6 2 1 2")

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --edge: #d0d7de; --back: #ffffff; --band: #f6f8fa;
@light@ }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9aa4ae; --edge: #3a424b; --back: #10151b;
  --band: #1a2028; @dark@ } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem; color: var(--ink); background: var(--back);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0; } p { margin: .25rem 0; max-width: 48rem; } .soft, figcaption p { color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 1rem 0; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .25rem 0; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--edge); text-align: right; white-space: nowrap; }
th:first-child { text-align: left; } thead th { border-bottom-width: 2px; }
tbody tr:nth-child(even) { background: var(--band); }
tbody th { font-weight: 600; } table.words th, table.words td { text-align: left; white-space: normal; }
table.words th:nth-child(2), table.words td:nth-child(2) { text-align: right; font-variant-numeric: tabular-nums; }
.notes { font-size: .85rem; color: var(--soft); }
.charts { display: flex; flex-wrap: wrap; gap: 2rem; } .charts figure { flex: 1 1 28rem; }
figure { margin: 0; min-width: 0; } .chart svg { width: 100%; height: auto; display: block; }
svg text { font-size: 12px; fill: var(--soft); } svg .grid { stroke: var(--edge); stroke-width: 1; }
polyline { fill: none; stroke-width: 1.75; stroke: var(--soft); } circle { fill: var(--soft); }
polyline.main { stroke: var(--ink); stroke-width: 3; } circle.main { fill: var(--ink); }
polyline.other { stroke: var(--edge); } circle.other { fill: var(--edge); }
@lines@
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .4rem 0; padding: 0;
  font-size: .85rem; }
.legend svg { width: 28px; height: 8px; display: inline-block; margin-right: .4rem; vertical-align: middle; }
details { font-size: .85rem; margin-top: .3rem; } summary { cursor: pointer; color: var(--soft); }
.subject { border-top: 1px solid var(--edge); padding: 1rem 0 1.25rem; }
.sheets { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: .6rem; }
.sheets figure { flex: 1 1 16rem; max-width: 32rem; }
.sheets img { width: 100%; height: auto; display: block; border-radius: 4px; background: var(--band); }
.sheets figcaption { font-size: .85rem; color: var(--soft); margin-bottom: .3rem; }
"""


def page(report: Report) -> str:
    """Write a report as HTML."""
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in report.facts)
    charts = "".join(chart.figure(each) for each in report.charts)
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        # A browser enforces what is promised here: nothing is loaded from anywhere.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(report.title)}</title><style>{_style_sheet()}</style></head><body>",
        f'<header><h1>{escape(report.title)}</h1><p class="soft">{escape(report.text)}</p></header><main>',
        f'<section aria-label="What this was made from"><dl>{facts}</dl></section>',
        f"<section><h2>Figures</h2>{''.join(map(_table, report.tables))}</section>",
        f'<section><h2>Over time</h2><div class="charts">{charts}</div></section>' if charts else "",
        f"<section><h2>Pictures</h2>{''.join(map(_subject, report.subjects))}</section>" if report.subjects else "",
        "</main></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _style_sheet() -> str:
    light, dark = (
        " ".join(f"--line{number}: {colour};" for number, colour in enumerate(colours)) for colours in (_LIGHT, _DARK)
    )
    lines = "\n".join(
        f"polyline.line{number} {{ stroke: var(--line{number}); stroke-dasharray: {dashes}; }} "
        f"circle.line{number} {{ fill: var(--line{number}); }}"
        for number, dashes in enumerate(_DASHES)
    )
    return _STYLE.replace("@light@", light).replace("@dark@", dark).replace("@lines@", lines)


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in table.rows
    )
    notes = "".join(f"<p>{escape(note)}</p>" for note in table.notes)
    kind = ' class="words"' if table.explained else ""
    return (
        f'<div class="wide"><table{kind}><caption>{escape(table.caption)}</caption><thead><tr>{head}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div><div class="notes">{notes}</div>'
    )


def _subject(subject: Subject) -> str:
    sheets = "".join(map(_sheet, subject.sheets))
    return (
        f'<article class="subject"><h3>{escape(subject.name)}</h3><p class="soft">{escape(subject.text)}</p>'
        f'<div class="sheets">{sheets}</div></article>'
    )


def _sheet(sheet: Sheet) -> str:
    width, height = sheet.size
    return (
        f'<figure><figcaption>{escape(sheet.label)}</figcaption><img alt="{escape(sheet.description)}" width="{width}" '
        f'height="{height}" loading="lazy" src="data:image/png;base64,{base64.b64encode(sheet.png).decode()}"></figure>'
    )
