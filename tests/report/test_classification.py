"""The figure of average accuracy: means and bands where they belong, and drawn like every other chart."""

import re

import numpy as np
import pytest

from conceptctl.report import charts
from conceptctl.report.classification import accuracy_chart

RUNS = {
    "stamina": [[0.95, 0.9, 0.8], [0.93, 0.86, 0.82], [0.97, 0.88, 0.84]],
    "l2p": [[0.9, 0.7, 0.6], [0.8, 0.72, 0.5], [0.85, 0.68, 0.4]],
    "joint": [[0.9, 0.9, 0.9]],
}


@pytest.fixture(scope="module")
def chart():
    return accuracy_chart(RUNS, "stamina")


def test_lines_are_means_and_bands_standard_deviations_over_seeds(chart):
    stamina, l2p, joint = chart.series
    for series, label in ((stamina, "stamina"), (l2p, "l2p")):
        values = 100 * np.array(RUNS[label])
        np.testing.assert_allclose(series.points, list(enumerate(values.mean(0), 1)))
        np.testing.assert_allclose(series.error, values.std(0, ddof=1))
    assert (stamina.label, stamina.main, l2p.main) == ("stamina", True, False)
    assert joint.error == ()
    assert joint.points == ((1, 90), (2, 90), (3, 90))
    assert chart.tells


def test_a_run_that_is_not_finished_counts_as_far_as_it_came():
    (series,) = accuracy_chart({"c-lora": [[0.9, 0.8], [0.7]]}).series
    np.testing.assert_allclose(series.points, [(1, 80), (2, 80)])
    np.testing.assert_allclose(series.error, [200**0.5, 0])
    assert not accuracy_chart({"c-lora": []}).tells


def test_every_colour_is_the_pages_and_every_method_has_marks_of_its_own(chart):
    svg = charts.draw(chart)
    colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg))
    assert {colour for colour in colours if not colour.startswith("var(")} <= {"none"}
    legend = charts.legend(chart)
    assert [label for label, _ in legend] == list(RUNS)
    assert len({colour for _, colour in legend}) == 3
    for _, colour in legend:
        assert f"var({colour})" in svg
    # One band for each method that has several seeds.
    assert svg.count("fill-opacity: 0.2") == 2
    assert charts.draw(chart) == svg
