"""`bench report`: what cells found, in tables that say it right."""

import csv
import dataclasses
import itertools
import json
import random
import re
import statistics

import pytest
from PIL import Image

from conceptctl.images.writing import encoded
from conceptctl.workflows.bench import noted
from conceptctl.workflows.bench import statistics as ours
from conceptctl.workflows.bench.report import NO_PICTURES, content
from conceptctl.workflows.bench.results import Row, read_all
from tests.workflows.small_bench import cli

LABELS = ("plain", "better", "bound")


def figures(a, p, f=0.0, success=0.5):
    known = {"A_mmd": a, "P_mmd": p, "F_mmd": f, "BwT_mmd": p - a, "success": success, "attributes": 0.9}
    return {**known, "kid": 10 * a, "clip_i2i": 0.8, "clip_t2i": None, "diversity": 1.0, "noise_floor": 0.2}


def result(seed, values, alone=False):
    """Results of a cell whose concepts end with the given A_mmd."""
    count = len(values)
    learned = [figures(value / 2, value / 2) for value in values]
    last = [figures(value, value / 2, f=value / 4) for value in values]
    last[-1] = figures(values[-1], values[-1])
    task = {
        "n_param_trained": 0.09, "n_param_trained_with_token": 0.1, "n_param_stored": 0.09, "stored_bytes": 3_200_000,
        "changed": 2.0, "first_time": 0.5, "distance": 3.0, "seconds_a_step": 0.25, "peak_memory": 10**9,
        "density": None, "trained_on": "cpu", "precision": "no", "seconds": 60.0,
    }  # fmt: skip
    cell = {
        "method": "lora", "alone": alone, "pictures_sha256": f"seed {seed}", "pictures": 4, "sampling_steps": 2,
        "config": {"steps": 3, "batch_size": 2}, "base": "0" * 64,
    }  # fmt: skip
    return {
        "cell": cell,
        "concepts": [{"name": f"thing-{place}", "class": "thing"} for place in range(count)],
        "learned": learned,
        "evaluations": [] if alone else [{"after": count - 1, "figures": last[:-1]}, {"after": count, "figures": last}],
        "pairs": None,
        "tasks": [{"name": f"thing-{place}", **task} for place in range(count)],
        "kernel": {"degree": 2, "gamma": 0.1, "offset": 1.0, "unit_norm": True, "biased": True},
        "extractor": {"name": "tiny", "sha256": "1" * 64},
        "device": "cpu",
        "program": "0.1.0",
        "starts": 1,
        "finished": "2026-11-29T00:00:00Z",
    }


def write(output, found, protocol="quick"):
    """Write an output folder as `bench run` leaves it."""
    cells = {}
    for (label, seed), each in found.items():
        key = f"{label}-{seed}-{protocol}"
        home = output / "cells" / key
        home.mkdir(parents=True)
        (home / "results.json").write_text(json.dumps(each))
        cells[f"{label}/{seed}"] = key
    spec = {
        "name": "made", "title": "Made & <up>", "description": "Of numbers.", "base": "none", "reference": "plain",
        "protocol": {"name": protocol}, "seeds": [0, 1],
        "entries": [{"label": label} for label in LABELS],
        "paper": {"source": "a | table", "values": {"plain": {"A_mmd": 3.0}, "better": {"A_mmd": 1.0}}},
    }  # fmt: skip
    (output / "runs").mkdir(exist_ok=True)
    (output / "runs" / f"made-{protocol}.json").write_text(json.dumps({"spec": spec, "cells": cells}))


@pytest.fixture
def output(tmp_path):
    found = {
        ("plain", 0): result(0, [4.0, 5.0, 6.0]),
        ("plain", 1): result(1, [5.0, 6.0, 7.0]),
        ("better", 0): result(0, [2.0, 3.0, 4.0]),
        ("better", 1): result(1, [3.0, 4.0, 5.0]),
        ("bound", 0): result(0, [2.0, 2.0, 2.0], alone=True),
    }
    write(tmp_path, found)
    return tmp_path


def rows_of(text, caption):
    """A Markdown table's rows by their first cell, each by the column."""
    lines = text.split(f"**{caption}**\n\n")[1].split("\n\n")[0].splitlines()
    head, *body = ([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if "---" not in line)
    return {row[0]: list(zip(head, row, strict=True)) for row in body}


def test_tables(output):
    code, said = cli("bench", "report", output)
    assert code == 0 and "bound/1" in said["benches"][0]["missing"]
    text = (output / "report/report.md").read_text()
    plain = rows_of(text, "Quality")["plain"]
    # Means of 5 and 6; forgetting leaves out what was learned last: means of 9/8 and 11/8.
    assert plain[:4] == [("method", "plain"), ("seeds", "2"), ("A_mmd ↓", "5.5 ± 0.71"), ("paper", "3")]
    assert dict(plain)["F_mmd ↓"] == "1.25 ± 0.18"
    assert dict(rows_of(text, "Quality")["bound"])["F_mmd ↓"] == "–"
    assert dict(rows_of(text, "Cost")["plain"])["MB a concept"] == "3.2 ± 0"
    better = rows_of(text, "Differences from plain")["better"]
    # Six pairs that all differ by -2: two of 2^6 assignments are as far from 0, and three rows are compared.
    assert better[1:3] == [("pairs", "6"), ("A_mmd, difference", "-2")]
    assert float(better[3][1]) == pytest.approx(2 * 2 / 2**6, abs=1e-3)
    # The bound ends where it was just after learning, at 1; it has three pairs with the reference, of seed 0 only.
    assert rows_of(text, "Differences from plain")["bound"][1:3] == [
        ("pairs", "3"),
        ("A_mmd, difference", "-4"),
    ]
    # What is set side by side is of seed 0 only: that of the bound.
    assert "A_mmd above that of bound, each concept alone: plain 400 %, better 200 %." in text
    assert "By A_mmd, over seed 0, which all rows have, best first: bound < better < plain." in text
    assert "Not run, or not to the end: of seed 1: bound." in text


def test_the_page_is_whole_and_asks_nobody_for_anything(output):
    assert cli("bench", "report", output)[0] == 0
    page = (output / "report/report.html").read_text()
    assert "Made &amp; &lt;up&gt;" in page and "<up>" not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page and "@media print" in page
    assert page.count("<svg") == 5


def test_steps_that_are_a_bound_are_called_so(tmp_path):
    found = {("plain", 0): result(0, [4.0]), ("better", 0): result(0, [2.0])}
    found["better", 0]["cell"]["config"] |= {"stopping": "auto"}
    write(tmp_path, found)
    assert cli("bench", "report", tmp_path)[0] == 0
    assert "3 steps of 2; at most 3 steps of 2" in (tmp_path / "report/report.html").read_text()


def test_the_file_of_figures_has_every_one(output):
    assert cli("bench", "report", output)[0] == 0
    with (output / "report/report.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    # Of each cell in sequence 3 just after learning, 2 and 3 later; of the bound 3.
    assert len(lines) == 4 * 8 + 3
    better = [each for each in lines if (each["row"], each["seed"]) == ("better", "1")]
    line = next(each for each in better if each["measured"] == "after 3")
    assert (line["concept"], line["position"], float(line["A_mmd"])) == ("thing-0", "1", 3.0)
    # Of what was learned last, has just been or is alone nothing can be forgotten, as in the tables.
    assert [each["F_mmd"] for each in better] == ["", "", "", "0.75", "", "0.75", "1.0", ""]
    assert all(each["BwT_mmd"] == "" for each in lines if each["row"] == "bound")


def test_how_rankings_of_two_protocols_agree(output):
    full = {("plain", 0): result(0, [4.0, 4.0]), ("better", 0): result(0, [3.0, 3.0])}
    write(output, {**full, ("bound", 0): result(0, [12.0, 12.0], alone=True)}, protocol="full")
    assert cli("bench", "report", output)[0] == 0
    # Quick has bound < better < plain, full better < plain < bound: one of three pairs agrees.
    text = (output / "report/report.md").read_text()
    assert re.search(r"Kendall's tau of made-full and made-quick: A_mmd -0\.333 \(3 rows\)", text)


def test_more_rows_than_colours_have_several_charts_with_the_reference_in_each(output):
    (bench,) = read_all(output)
    plain = bench.row("plain")
    rows = (plain, *(Row(f"row {number}", plain.results) for number in range(17)))
    made = content([dataclasses.replace(bench, rows=rows)]).sections[0].charts
    parts = [chart for chart in made if chart.title.startswith("Plasticity")]
    assert [len(chart.series) for chart in parts] == [6, 7, 7]
    assert all(chart.series[0].label == "plain" and chart.series[0].main for chart in parts)
    labels = [series.label for chart in parts for series in chart.series[1:]]
    assert labels == [f"row {number}" for number in range(17)]


def test_a_benchmark_without_any_result_is_there_with_what_is_missing(output):
    write(output, {}, protocol="full")
    (output / "cells/plain-0-full").mkdir()
    (output / "cells/plain-0-full/failed.json").write_text('{"message": "no room"}')
    path = output / "runs/made-full.json"
    path.write_text(path.read_text().replace('"cells": {}', '"cells": {"plain/0": "plain-0-full"}'))
    code, said = cli("bench", "report", output)
    full = next(each for each in said["benches"] if each["name"] == "made-full")
    assert code == 0 and len(full["missing"]) == 6 and full["failed"] == {"plain/0": "no room"}
    assert "Failed: plain/0: no room." in (output / "report/report.md").read_text()


def test_what_people_call_things_is_no_html_in_markdown_either(output):
    assert cli("bench", "report", output)[0] == 0
    text = (output / "report/report.md").read_text()
    assert "Made & &lt;up>" in text and "< 0.001" not in text.partition("Differences")[0]


def test_results_alone_are_enough_for_whole_tables(output):
    assert cli("bench", "report", output)[0] == 0
    text, page = (output / f"report/report.{kind}" for kind in ("md", "html"))
    assert NO_PICTURES in text.read_text() and NO_PICTURES in page.read_text()
    without = text.read_text()
    cell = output / "cells/plain-0-quick/drawn"
    cell.mkdir()
    sound = encoded(Image.new("RGB", (8, 8)), "PNG", noted=False)
    (cell / "thing-0-heldout.png").write_bytes(sound)
    # A damaged one is as one that is not there.
    (cell / "thing-0-learned.png").write_bytes(sound[:-20])
    assert cli("bench", "report", output)[0] == 0
    assert without.replace(f"{NO_PICTURES}\n\n", "") == text.read_text()
    assert "At the end of the sequence" in page.read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "is cut off, or was changed"),
        (lambda text: "[]", "it is no object"),
        (lambda text: text.replace('"learned"', '"lerned"', 1), "it has no 'learned'"),
        (lambda text: text.replace('"A_mmd": 2.0', '"A_mmd": "2,0"', 1), "'A_mmd' cannot be '2,0'"),
        (lambda text: text.replace('"name": "thing-2", "class": "thing"}', '"name": "x"}', 1), "has no 'class'"),
        (lambda text: text.replace('"after": 2', '"after": 1', 1), "not as many figures as concepts"),
        (lambda text: text.replace('"cell": {', '"cell": {"key": "lora-0-0123", ', 1), "not what its key was made of"),
    ],
)
def test_results_that_are_not_as_they_were_written_are_named(output, change, message):
    path = output / "cells/plain-0-quick/results.json"
    text = change(path.read_text())
    assert text != path.read_text()
    path.write_text(text)
    code, said = cli("bench", "report", output)
    assert code == 4 and str(path) in said["error"]["message"] and message in said["error"]["message"], said
    assert "take it away" in said["error"]["hint"] and path.read_text() == text


def test_figures_are_written_to_eight_digits_and_what_decides_them_as_it_is(tmp_path):
    noted.write_results(tmp_path / "results.json", {"cell": {"rate": 1 / 3}, "learned": [{"A_mmd": 100 / 3, "n": 7}]})
    assert (tmp_path / "results.json").read_text() == (
        '{"cell":{"rate":0.3333333333333333},"learned":[{"A_mmd":33.333333,"n":7}]}\n'
    )


def test_nothing_to_report(tmp_path):
    code, said = cli("bench", "report", tmp_path / "nowhere")
    assert code == 5 and "bench run" in said["error"]["hint"]


def test_the_permutation_test_is_that_of_all_assignments():
    rng = random.Random(0)
    values = [rng.gauss(0.4, 1) for _ in range(8)]
    means = [sum(s * v for s, v in zip(signs, values, strict=True)) for signs in itertools.product((-1, 1), repeat=8)]
    expected = sum(abs(each) >= abs(sum(values)) - 1e-12 for each in means) / len(means)
    assert ours.sign_flip(values) == expected
    assert ours.sign_flip([0.0, 0.0]) == 1
    assert ours.sign_flip([]) is None


def test_more_pairs_than_can_be_looked_at_are_drawn():
    rng = random.Random(1)
    values = [rng.gauss(0.3, 1) for _ in range(40)]
    # The normal approximation of the same test.
    z = abs(sum(values)) / sum(value * value for value in values) ** 0.5
    expected = 2 * (1 - statistics.NormalDist().cdf(z))
    assert ours.sign_flip(values) == pytest.approx(expected, abs=0.02)
    assert ours.sign_flip(values) == ours.sign_flip(values)
    assert ours.sign_flip([5.0] * 60) == 1 / (ours.DRAWN + 1)


def test_holm_and_kendall():
    assert ours.holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert ours.kendall([1, 2, 3], [10, 20, 30]) == 1 and ours.kendall([1, 2, 3], [3, 2, 1]) == -1
    assert ours.kendall([1, 1], [2, 3]) is None
    # By hand: five of six pairs, one tied in the second list.
    assert ours.kendall([1, 2, 3, 4], [1, 2, 2, 3]) == pytest.approx(5 / (6 * 5) ** 0.5)


def test_what_is_the_same_for_all_seeds_has_no_deviation():
    assert ours.mean_and_deviation([100 * 0.283001] * 3) == (pytest.approx(28.3001), 0.0)
    assert ours.mean_and_deviation([1.0]) == (1.0, None)
    assert ours.mean_and_deviation([1.0, 2.0, 4.0]) == (
        pytest.approx(7 / 3),
        pytest.approx(statistics.stdev([1, 2, 4])),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda said: said.pop("cells"), "it has no 'cells'"),
        (lambda said: said["spec"].pop("entries"), "'spec' has no 'entries'"),
        (lambda said: said["spec"].update(protocol=[]), "'protocol' is no object"),
        (lambda said: said["cells"].update({"plain/0": 3}), "one of 'cells' is no text"),
    ],
)
def test_a_note_of_cells_that_is_not_as_it_was_written_is_named(output, change, message):
    path = output / "runs/made-quick.json"
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))
    code, said = cli("bench", "report", output)
    assert code == 4 and str(path) in said["error"]["message"] and message in said["error"]["message"], said
    assert "not run again" in said["error"]["hint"]
