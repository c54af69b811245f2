"""The part of a report that is of methods which tell classes apart: a figure as STAMINA's figure 6, and tables."""

from __future__ import annotations

from conceptctl.report.bench import Section
from conceptctl.report.classification import accuracy_chart
from conceptctl.report.content import Table
from conceptctl.workflows.bench.results import Bench, ClassResult
from conceptctl.workflows.bench.statistics import mean_and_deviation, over_seeds
from conceptctl.workflows.bench.tables import unfinished

TITLES = {
    "A_N": "A_N % ↑",
    "average_anytime_accuracy": "mean of A_1 to A_N % ↑",
    "forgetting": "forgetting % ↓",
    "backward_transfer": "backward transfer % ↑",
    "n_param_trained": "N_param trained %",
    "n_param_stored": "N_param stored %",
    "seconds": "s a task",
}
_SHARES = ("A_N", "average_anytime_accuracy", "forgetting", "backward_transfer")


def section(bench: Bench) -> Section:
    """Put together what a report shows of one benchmark."""
    spec = bench.spec
    runs = {row.label: [_averages(result) for result in row.results if not result.joint] for row in bench.class_rows}
    chart = accuracy_chart({label: each for label, each in runs.items() if each}, spec["reference"])
    return Section(spec["title"], spec["description"], _notes(bench), (_table(bench),), (chart,), (), _facts(bench))


def lines(bench: Bench) -> list[dict[str, object]]:
    """Every accuracy: after each task, of each task so far; what the CSV file holds."""
    return [
        {
            "bench": bench.name,
            "row": row.label,
            "method": result.found["cell"]["method"],
            "seed": result.seed,
            "after": after,
            "task": task,
            "accuracy": value,
        }
        for row in bench.class_rows
        for result in row.results
        for after, accuracies in enumerate(result.matrix, 1)
        for task, value in enumerate(accuracies, 1)
    ]


def _averages(result: ClassResult) -> tuple[float, ...]:
    return result.figures.average_accuracy


def _table(bench: Bench) -> Table:
    rows = []
    for row in bench.class_rows:
        cells = [row.label, str(len(row.results))]
        for name in TITLES:
            values = [100 * value if name in _SHARES else value for value in row.values(name)]
            cells.append(over_seeds(values))
        rows.append(tuple(cells))
    return Table(
        "Accuracy and cost",
        ("method", "seeds", *TITLES.values()),
        tuple(rows),
        (
            "A_N is the mean over tasks of the accuracy at the end, every test picture taken for any of all classes. "
            "Forgetting: how far a task's best accuracy is above its last, in the mean over all tasks but the last. "
            "N_param is in % of the transformer, without the head, which is the same for all; stored is what is kept "
            "beside the weights. ± is the standard deviation over seeds. Times are comparable only where nothing else "
            "ran on the machine.",
        ),
    )


def _notes(bench: Bench) -> tuple[str, ...]:
    known = {row.label: mean_and_deviation(row.values("A_N"))[0] for row in bench.class_rows}
    order = " > ".join(sorted(known, key=lambda label: -known[label]))
    return (f"By A_N, best first: {order}.", *unfinished(bench))


def _facts(bench: Bench) -> tuple[tuple[str, str], ...]:
    results = [result for row in bench.class_rows for result in row.results]
    one = results[0].found
    learned = sorted({(each.found["cell"]["epochs"], each.found["cell"]["config"]["batch_size"]) for each in results})
    tasks = one["cell"]["tasks"]
    seeds = ", ".join(map(str, bench.spec["seeds"]))
    return (
        ("base", f"{bench.spec['base'] or 'bundled'} ({one['cell']['base'][:12]})"),
        ("classes", f"{sum(map(len, tasks))} in {len(tasks)} tasks; seeds {seeds}"),
        ("learned", "; ".join(f"{epochs} epochs in steps of {batch}" for epochs, batch in learned)),
        ("device", ", ".join(sorted({each.found["device"] for each in results}))),
        ("program", ", ".join(sorted({each.found["program"] for each in results}))),
    )
