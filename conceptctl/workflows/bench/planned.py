"""`bench run --dry-run`: which cells there are, and what each would take, with nothing run or changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from conceptctl.workflows.bench.cell import DATA, FAILED, Cell
from conceptctl.workflows.bench.cells import BASES, check_tools
from conceptctl.workflows.bench.classification.spec import ClassSpec
from conceptctl.workflows.bench.cost import cost_of
from conceptctl.workflows.bench.run import Watch, check_run, choose_cells, is_finished
from conceptctl.workflows.bench.spec import Spec
from conceptctl.workflows.places import check_writable

State = Literal["finished", "failed", "begun", "to do"]


@dataclass(frozen=True)
class Planned:
    """One cell, and how far it is."""

    cell: Cell
    state: State
    """"failed" and "begun" ones are gone on with."""
    learned: int
    """How many of its concepts, or tasks, have been learned and measured."""
    hours: float | None
    """Of one core, about, for what is left; None where nobody knows. 0 of a cell that is alike to one before it."""


def plan(
    spec: Spec | ClassSpec,
    output: Path,
    *,
    patterns: Sequence[str] = (),
    engine: str = "local",
    at_once: int | None = None,
    device: str = "auto",
    watch: Watch | None = None,
) -> tuple[Planned, ...]:
    """Check all that `run` checks before the first cell begins, and say how far each is.

    Args and errors are those of `run`. Base and pictures that the output folder lacks are made aside, and go again.
    """
    watch = watch or Watch()
    made = choose_cells(spec, patterns)
    check_run(spec, engine, at_once, device)
    check_writable(output)
    with _aside(output) as place:
        watch.stage("looking at base and pictures")
        cells = made(place, watch.stage)
        finished = {cell.key for cell in cells if is_finished(cell, output)}
        if missing := [cell for cell in cells if cell.key not in finished]:
            watch.stage("opening what cells measure with")
            check_tools(missing)
    planned, seen = [], set(finished)
    for cell in cells:
        hours = _hours(spec, cell, output, seen)
        planned.append(Planned(cell, _state(cell, output, finished), cell.learned(output), hours))
        seen.add(cell.key)
    return tuple(planned)


@contextmanager
def _aside(output: Path) -> Iterator[Path]:
    """A folder with links to the bases and pictures of an output folder; what is made in it goes with it."""
    # On the disk that a run would fill: a base can be larger than the memory that /tmp may be in.
    there = next(each for each in (output.absolute(), *output.absolute().parents) if each.exists())
    with TemporaryDirectory(prefix=".conceptctl-", dir=there) as name:
        place = Path(name)
        for part in (BASES, DATA):
            (place / part).mkdir()
            for each in (output.absolute() / part).glob("*"):
                # Of a lock everybody has one's own.
                if each.is_dir():
                    (place / part / each.name).symlink_to(each)
        yield place


def _state(cell: Cell, output: Path, finished: set[str]) -> State:
    home = cell.home(output)
    if cell.key in finished:
        return "finished"
    if (home / FAILED).exists():
        return "failed"
    return "begun" if home.exists() else "to do"


def _hours(spec: Spec | ClassSpec, cell: Cell, output: Path, seen: set[str]) -> float | None:
    if cell.key in seen:
        return 0.0
    rows = tuple(entry for entry in spec.entries if entry.label == cell.label)
    cost = cost_of(dataclasses.replace(spec, entries=rows, seeds=(cell.seed,)))
    if cost is None or cost.hours is None:
        return None
    return cost.hours * (1 - cell.learned(output) / cell.concepts)
