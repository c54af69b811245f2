"""The figure of continual classification: how accuracy over all that was learned goes down (STAMINA, figure 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from conceptctl.report.content import Chart, Series

Runs = Sequence[Sequence[float]]
"""Of each seed, A_1, A_2, ...: the average accuracy over the tasks learned so far, after each, 0 to 1."""


def accuracy_chart(methods: Mapping[str, Runs], main: str = "") -> Chart:
    """Make a line for each method: the mean over seeds, and a band of one standard deviation on either side.

    Args:
        methods: By what each is called, in the order of the legend. Runs that are not finished are shorter, and a place
            has the mean of those that came to it.
        main: The one to look at.
    """
    return Chart(
        "Average accuracy over the tasks seen",
        "After each task, the mean over all tasks so far of the accuracy on their test pictures, each of which may be "
        "taken for any class so far. Bands are one standard deviation over seeds.",
        "tasks learned",
        "average accuracy, %",
        tuple(_series(label, runs, main=label == main) for label, runs in methods.items()),
    )


def _series(label: str, runs: Runs, *, main: bool) -> Series:
    places = [[100 * run[place] for run in runs if place < len(run)] for place in range(max(map(len, runs), default=0))]
    points = tuple((float(number), mean(values)) for number, values in enumerate(places, 1))
    several = any(len(values) > 1 for values in places)
    return Series(label, points, tuple(_deviation(values) for values in places) if several else (), main)


def _deviation(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0
