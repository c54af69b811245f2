"""What cells found, read from an output folder and summed up."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from conceptctl.errors import NotFound
from conceptctl.metrics.classification import Figures, accuracy, accuracy_matrix, figures_of
from conceptctl.metrics.continual import FORGETTING, mean
from conceptctl.workflows.bench.cell import CELLS, FAILED, RESULTS
from conceptctl.workflows.bench.cells import DRAWN
from conceptctl.workflows.bench.classification.spec import KIND
from conceptctl.workflows.bench.measures import COSTS, LABELS
from conceptctl.workflows.bench.noted import read_noted, read_results, read_run
from conceptctl.workflows.bench.run import RUNS


@dataclass(frozen=True)
class Result:
    """The results of one cell."""

    seed: int
    home: Path
    found: Mapping[str, Any]
    """As `results.json` has them."""

    @property
    def concepts(self) -> tuple[str, ...]:
        """Names, in the order of learning."""
        return tuple(each["name"] for each in self.found["concepts"])

    @property
    def alone(self) -> bool:
        """Whether each concept was learned in a model of its own."""
        return bool(self.found["cell"]["alone"])

    @property
    def joint(self) -> bool:
        """Whether all concepts were learned at once; cells of earlier versions do not say."""
        return bool(self.found["cell"].get("joint"))

    def final(self) -> list[Mapping[str, float | None]]:
        """The figures of each concept at the end of the sequence."""
        if not self.found["evaluations"]:
            return list(self.found["learned"])
        figures: list[Mapping[str, float | None]] = self.found["evaluations"][-1]["figures"]
        return figures

    def at_the_end(self, figure: str) -> list[float | None]:
        """One figure of each concept at the end; None where a concept has none, as what came last is not forgotten."""
        values = [each[figure] for each in self.final()]
        if figure in FORGETTING:
            return [None] * len(values) if self.alone else [*values[:-1], None]
        return values

    def over_tasks(self, figure: str) -> list[tuple[int, float]]:
        """The mean of a figure over all concepts so far, after so many concepts."""
        found = []
        for evaluation in self.found["evaluations"]:
            figures = evaluation["figures"][:-1] if figure in FORGETTING else evaluation["figures"]
            value = mean(each[figure] for each in figures)
            if value is not None:
                found.append((int(evaluation["after"]), value))
        return found

    def by_position(self, figure: str) -> list[tuple[int, float]]:
        """What is said of each concept when it has been learned, or of its task, by its place in the sequence."""
        values = [each[figure] for each in self.found["learned" if figure in LABELS else "tasks"]]
        return [(place, value) for place, value in enumerate(values, 1) if value is not None]

    def summary(self) -> dict[str, float | None]:
        """The means over concepts."""
        # What is learned at once is drawn once, at the end.
        first = [] if self.joint else self.found["learned"]
        learned = {f"{name}_learned": mean(each[name] for each in first) for name in ("success",)}
        pairs = {f"pairs_{name}": value for name, value in (self.found["pairs"] or {}).items()}
        return {
            **{name: mean(self.at_the_end(name)) for name in LABELS},
            **learned,
            **{name: mean(task[name] for task in self.found["tasks"]) for name in COSTS},
            "steps": mean(task.get("steps") for task in self.found["tasks"]),
            **pairs,
        }


@dataclass(frozen=True)
class ClassResult:
    """The results of one cell of a comparison of classifiers."""

    seed: int
    home: Path
    found: Mapping[str, Any]
    """As `results.json` has them."""

    @property
    def joint(self) -> bool:
        """Whether all classes were learned at once."""
        return bool(self.found["cell"]["joint"])

    @cached_property
    def matrix(self) -> tuple[tuple[float, ...], ...]:
        """After each task, the accuracy on each task so far; of what is learned at once one row, on every task."""
        tasks = self.found["tasks"]
        if not self.joint:
            return accuracy_matrix([each["labels"] for each in tasks], [each["answers"] for each in tasks])
        pairs = list(zip(tasks[0]["labels"], tasks[0]["answers"][0], strict=True))
        groups = [[pair for pair in pairs if pair[0] in names] for names in self.found["cell"]["tasks"]]
        return (tuple(accuracy(*map(list, zip(*group, strict=True))) for group in groups),)

    @cached_property
    def figures(self) -> Figures:
        """What the matrix comes to; of what is learned one task after the other."""
        return figures_of(self.matrix)

    def summary(self) -> dict[str, float | None]:
        """Its figures, and the means over tasks of what they took."""
        costs = {
            name: mean(task[name] for task in self.found["tasks"])
            for name in ("n_param_trained", "n_param_stored", "seconds")
        }
        if self.joint:
            return {"A_N": mean(self.matrix[0]), **costs}
        return {
            "A_N": self.figures.final_accuracy,
            "average_anytime_accuracy": self.figures.average_anytime_accuracy,
            "forgetting": self.figures.forgetting,
            "backward_transfer": self.figures.backward_transfer,
            **costs,
            # What is kept grows with tasks.
            "n_param_stored": self.found["tasks"][-1]["n_param_stored"],
        }


Found = TypeVar("Found", Result, ClassResult)


@dataclass(frozen=True)
class Row(Generic[Found]):
    """One row of a table."""

    label: str
    results: tuple[Found, ...]
    """By seed."""

    @property
    def seeds(self) -> frozenset[int]:
        """Those that it has results of."""
        return frozenset(result.seed for result in self.results)

    def values(self, name: str, seeds: Collection[int] | None = None) -> list[float]:
        """One mean over concepts for each seed that has it, of all seeds or of some."""
        chosen = (result for result in self.results if seeds is None or result.seed in seeds)
        found = (result.summary().get(name) for result in chosen)
        return [value for value in found if value is not None]


@dataclass(frozen=True)
class Bench:
    """One spec's results in one output folder."""

    name: str
    spec: Mapping[str, Any]
    """As it was run, as plain data."""
    rows: tuple[Row[Result], ...]
    """Those that have results, in the order of the spec."""
    class_rows: tuple[Row[ClassResult], ...]
    """The same of a comparison of classifiers; a benchmark has one of the two."""
    missing: tuple[str, ...]
    """Cells that were not run, or not to their end."""
    failed: Mapping[str, str]
    """What went wrong, by cell."""

    @property
    def all_rows(self) -> tuple[Row[Result] | Row[ClassResult], ...]:
        """Its rows, of whatever kind."""
        return (*self.rows, *self.class_rows)

    def row(self, label: str) -> Row[Result] | None:
        """The row of a label, where it has results."""
        return next((row for row in self.rows if row.label == label), None)


def read_all(output: Path) -> list[Bench]:
    """Read every spec's results, of some of which no cell may have been finished.

    Raises:
        NotFound: There are none.
        StoreDamaged: A file is not as it was written.
    """
    folder = output / RUNS
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    found = [_bench(output, path) for path in paths]
    if not any(bench.all_rows for bench in found):
        raise NotFound(f"no cell has been finished in {output}", hint=f"conceptctl bench run smoke --output {output}")
    return found


def _bench(output: Path, path: Path) -> Bench:
    noted = read_run(path)
    spec, keys = noted["spec"], noted["cells"]
    classes = spec.get("kind") == KIND
    results: dict[str, list[Result]] = {}
    class_results: dict[str, list[ClassResult]] = {}
    missing, failed = [], {}
    for name in (f"{entry['label']}/{seed}" for entry in spec["entries"] for seed in spec["seeds"]):
        home = output / CELLS / keys[name] if name in keys else None
        if home is None or not (home / RESULTS).exists():
            missing.append(name)
            if home is not None and (home / FAILED).exists():
                failed[name] = str(read_noted(home / FAILED, "message")["message"])
            continue
        label, _, seed = name.rpartition("/")
        told = read_results(home / RESULTS, classes=classes)
        if classes:
            class_results.setdefault(label, []).append(ClassResult(int(seed), home, told))
        else:
            results.setdefault(label, []).append(Result(int(seed), home, told))
    rows = tuple(Row(label, tuple(each)) for label, each in results.items())
    class_rows = tuple(Row(label, tuple(every)) for label, every in class_results.items())
    return Bench(path.stem, spec, rows, class_rows, tuple(missing), failed)


def lines(bench: Bench) -> Iterator[dict[str, Any]]:
    """Every figure of every concept, whenever it was measured: what the CSV file holds."""
    for row in bench.rows:
        for result in row.results:
            shared = {
                "bench": bench.name,
                "row": row.label,
                "method": result.found["cell"]["method"],
                "seed": result.seed,
            }
            measured = [("learned", result.found["learned"])]
            measured += [(f"after {each['after']}", each["figures"]) for each in result.found["evaluations"]]
            for when, figures in measured:
                figures = _as_counted(figures, in_sequence=when != "learned" and not result.alone)
                for place, (name, each, task) in enumerate(
                    zip(result.concepts, figures, result.found["tasks"], strict=False), 1
                ):
                    costs = {key: task[key] for key in (*COSTS, "distance", "first_time")}
                    yield {**shared, "concept": name, "position": place, "measured": when, **each, **costs}


def _as_counted(figures: Sequence[Mapping[str, Any]], *, in_sequence: bool) -> list[Mapping[str, Any]]:
    """Leave out what is no forgetting: of what was learned last, or has just been, or has a model of its own."""
    left_out = dict.fromkeys(FORGETTING)
    last = len(figures) - 1 if in_sequence else 0
    return [{**each, **(left_out if place >= last else {})} for place, each in enumerate(figures)]


def picture(result: Result, concept: str, when: str) -> Path:
    """Where a concept's pictures stand side by side."""
    return result.home / DRAWN / f"{concept}-{when}.png"
