"""`bench report`: everything that an output folder holds, as one HTML page, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conceptctl.report.bench import BenchReport, Section, Sheet, html, markdown
from conceptctl.report.charts import COLOURS
from conceptctl.report.content import Chart, Picture, Series
from conceptctl.store import durable
from conceptctl.wording import count
from conceptctl.workflows.bench import class_report, results, tables
from conceptctl.workflows.bench.results import Bench, Result, Row
from conceptctl.workflows.evaluate.tables import kernel_text
from conceptctl.workflows.places import writable

FILES = ("report.html", "report.md", "report.csv")
CLASS_FILE = "classification.csv"
"""Beside them, where classifiers were compared: every accuracy."""
NO_PICTURES = "What the cells drew is not in this folder: there are no grids of pictures."
Points = Callable[[Result], Sequence[tuple[int, float]]]


@dataclass(frozen=True)
class Written:
    """What was written."""

    files: tuple[Path, ...]
    benches: tuple[Bench, ...]


def write_report(output: Path, target: Path) -> Written:
    """Write the report of an output folder; files of an earlier one in the same place are replaced.

    Args:
        output: What `bench run` wrote into.
        target: A folder for `FILES`.

    Raises:
        NotFound: No cell has been finished.
        StoreDamaged: A result is not as it was written.
        UsageError: Nothing can be written there.
    """
    found = results.read_all(output)
    report = content(found)
    named = dict(zip(FILES, (html(report), markdown(report), _csv(found)), strict=True))
    if classes := [line for bench in found if bench.class_rows for line in class_report.lines(bench)]:
        named[CLASS_FILE] = _as_csv(classes)
    with writable(target):
        for name, text in named.items():
            durable.replace_file(target / name, text.encode(), target, mode=0o644)
    return Written(tuple(target / name for name in named), tuple(found))


def content(found: Sequence[Bench]) -> BenchReport:
    """Put together what a report shows."""
    measured = [bench for bench in found if bench.all_rows]
    same = [
        text
        for one in measured
        for other in measured
        if one.spec["name"] == other.spec["name"] and one.spec["protocol"]["name"] < other.spec["protocol"]["name"]
        if (text := tables.agreement(one, other))
    ]
    # Specs share cells.
    cells = len({result.home for bench in found for row in bench.all_rows for result in row.results})
    text = f"{count(cells, 'finished cell')}, each a method that learned a sequence with one seed. {' '.join(same)}"
    sections = tuple(map(_section_of, found))
    return BenchReport("Methods compared", text.strip(), sections)


def _section_of(bench: Bench) -> Section:
    if not bench.all_rows:
        return Section(bench.spec["title"], bench.spec["description"], tables.unfinished(bench), (), (), (), ())
    return class_report.section(bench) if bench.class_rows else _section(bench)


def _section(bench: Bench) -> Section:
    spec = bench.spec
    sheets = _sheets(bench)
    return Section(
        f"{spec['title']} ({spec['protocol']['name']} protocol)",
        spec["description"],
        (*tables.notes(bench), *(() if sheets else (NO_PICTURES,))),
        tables.tables(bench),
        tuple(chart for each in _CHARTS for chart in _split(bench, *each)),
        sheets,
        _facts(bench),
    )


_CHARTS: tuple[tuple[str, str, str, str, Points], ...] = (
    (
        "Plasticity",
        "How far each concept's pictures are from the held-out ones just after it was learned.",
        "concept",
        "P_mmd x 10^3",
        lambda result: result.by_position("P_mmd"),
    ),
    (
        "Forgetting over tasks",
        "How far the pictures of earlier concepts have gone from what they were, in the mean over all before the last.",
        "concepts learned",
        "F_mmd x 10^3",
        lambda result: result.over_tasks("F_mmd"),
    ),
    (
        "Success over tasks",
        "The share of pictures that the judge accepts, in the mean over all concepts so far.",
        "concepts learned",
        "success",
        lambda result: result.over_tasks("success"),
    ),
    (
        "Distance from the base",
        "|W_t - W_init| over all weights that concepts change, after each concept.",
        "concepts learned",
        "distance",
        lambda result: [] if result.alone else result.by_position("distance"),
    ),
    (
        "Changed for the first time",
        "Of the weights that a concept changes, the share that none before it had changed.",
        "concept",
        "share",
        lambda result: [] if result.alone else result.by_position("first_time"),
    ),
)


def _split(bench: Bench, title: str, text: str, x_label: str, y_label: str, points: Points) -> list[Chart]:
    """One chart, or several with the reference in each, where more rows are compared than can be told apart."""
    seeds = max(len(row.results) for row in bench.rows)
    made = (_series(row, points, row.label == bench.spec["reference"], seeds) for row in bench.rows)
    series = [each for each in made if each.points]
    main, others = [each for each in series if each.main], [each for each in series if not each.main]
    count = max(1, -(-len(others) // COLOURS))
    parts = [others[place * len(others) // count : (place + 1) * len(others) // count] for place in range(count)]
    return [
        Chart(f"{title}, {place} of {len(parts)}" if len(parts) > 1 else title, text, x_label, y_label, (*main, *part))
        for place, part in enumerate(parts, 1)
    ]


def _series(row: Row[Result], points: Points, main: bool, seeds: int) -> Series:
    """A row's line: the mean over its seeds at each place; one that has not all of them says so."""
    label = row.label if len(row.results) == seeds else f"{row.label} ({len(row.results)} of {seeds} seeds)"
    values: dict[int, list[float]] = {}
    for result in row.results:
        for place, value in points(result):
            values.setdefault(place, []).append(value)
    points_ = tuple((place, sum(each) / len(each)) for place, each in sorted(values.items()))
    return Series(label, points_, main=main)


def _sheets(bench: Bench) -> tuple[Sheet, ...]:
    """An early, a middle and a late concept by every row (000, figure 4), just after learning and at the end.

    Results may come without their pictures: then there are none.
    """
    seed = bench.rows[0].results[0].seed
    shown = [(row.label, result) for row in bench.rows for result in row.results if result.seed == seed]
    names = shown[0][1].concepts
    chosen = [names[place] for place in (0, (len(names) - 1) // 2, len(names) - 1)]
    columns = ("early", "middle", "late")
    made = []
    for title, text, when in (
        ("At the end of the sequence", "Drawn with the model that has learned all of it.", None),
        ("Just after learning", "Drawn with the model of then, from the same seeds.", "learned"),
    ):
        rows = [("held-out", tuple(_picture(shown[0][1], name, "heldout") for name in chosen))]
        for label, result in shown:
            last = "learned" if when or result.alone else f"after-{len(names):04d}"
            # What was learned last is drawn once, and so is everything that was learned at once.
            once = names if result.joint else names[-1:]
            rows.append((label, tuple(_picture(result, each, "learned" if each in once else last) for each in chosen)))
        labels = tuple(f"{column}: {name}" for column, name in zip(columns, chosen, strict=True))
        made.append(Sheet(title, f"{text} Seed {seed}.", (labels[0], labels[1], labels[2]), tuple(rows)))
    return tuple(made) if any(each for sheet in made for _, row in sheet.rows for each in row) else ()


def _picture(result: Result, concept: str, when: str) -> Picture | None:
    from PIL import Image

    path = results.picture(result, concept, when)
    try:
        with Image.open(path) as picture:
            picture.load()
            size = picture.size
    except OSError:
        # It is not there, or damaged: its place stays empty.
        return None
    return Picture("", f"{concept}, {when}", "image/png", path.read_bytes(), size)


def _facts(bench: Bench) -> tuple[tuple[str, str], ...]:
    results_ = [result for row in bench.rows for result in row.results]
    one = results_[0].found
    drawn = sorted({(each.found["cell"]["pictures"], each.found["cell"]["sampling_steps"]) for each in results_})
    configs = [each.found["cell"]["config"] for each in results_]
    # Cells of earlier versions do not say what ended a training.
    learned = sorted({(each["steps"], each["batch_size"], each.get("stopping") == "auto") for each in configs})
    return (
        ("base", f"{bench.spec['base']} ({one['cell']['base'][:12]})"),
        ("concepts", f"{len(one['concepts'])}; seeds {', '.join(map(str, bench.spec['seeds']))}"),
        ("learned", "; ".join(f"{'at most ' * bound}{steps} steps of {batch}" for steps, batch, bound in learned)),
        ("drawn", "; ".join(f"{count} pictures a concept, {steps} denoising steps" for count, steps in drawn)),
        ("kernel", kernel_text(one["kernel"])),
        ("features", f"CLIP {one['extractor']['name']} (sha256 {one['extractor']['sha256']})"),
        ("device", ", ".join(sorted({each.found["device"] for each in results_}))),
        ("precision", ", ".join(sorted({str(task["precision"]) for each in results_ for task in each.found["tasks"]}))),
        ("program", ", ".join(sorted({each.found["program"] for each in results_}))),
    )


def _csv(found: Sequence[Bench]) -> str:
    return _as_csv([line for bench in found for line in results.lines(bench)])


def _as_csv(rows: Sequence[Mapping[str, object]]) -> str:
    stream = io.StringIO()
    if rows:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return stream.getvalue()
