"""`bench run`: every cell of a spec that is not finished yet."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from conceptctl.errors import Busy, ConceptctlError, DeviceFailed
from conceptctl.methods import CLASSIFIERS, METHODS
from conceptctl.workflows.bench.cell import RESULTS, Cell, chosen
from conceptctl.workflows.bench.cells import check_tools, make_cells
from conceptctl.workflows.bench.classification.cells import ClassCell
from conceptctl.workflows.bench.classification.cells import make_cells as make_class_cells
from conceptctl.workflows.bench.classification.spec import ClassSpec
from conceptctl.workflows.bench.engines import check_engine, run_cells
from conceptctl.workflows.bench.noted import read_results, read_run, write_json
from conceptctl.workflows.bench.spec import Spec
from conceptctl.workflows.learn.request import Request, precision_of
from conceptctl.workflows.places import writable

RUNS = "runs"
"""The folder of an output folder that says which cells belong to which spec."""
_SHARED = ("kind", "base", "data", "protocol", "precision", "feature_extractor")
"""What all rows of a table have in common, by its names in a spec."""


@dataclass(frozen=True)
class Watch:
    """Who is told what meanwhile."""

    stage: Callable[[str], None] = lambda what: None
    """Something is made ready."""
    begin: Callable[[int, int], None] = lambda done, total: None
    """The cells begin: so many concepts of all are learned and measured already."""
    progress: Callable[[str, int], None] = lambda what, done: None
    """What goes on, and how many are."""


@dataclass(frozen=True)
class Ran:
    """What a run did."""

    output: Path
    cells: tuple[Cell, ...]
    finished_before: tuple[str, ...]
    """Names of cells that an earlier run had finished."""


def run(
    spec: Spec | ClassSpec,
    output: Path,
    *,
    patterns: Sequence[str] = (),
    engine: str = "local",
    at_once: int | None = None,
    device: str = "auto",
    watch: Watch | None = None,
) -> Ran:
    """Run the cells of a spec, those that are finished excepted; a killed run goes on where it was.

    Args:
        spec: The spec.
        output: A folder; several specs may share one, and cells that are alike.
        patterns: Which cells, see `chosen`.
        engine: One of `engines.ENGINES`.
        at_once: How many cells run at the same time on this machine; see `engines.run_cells`.
        device: "auto", "cpu" or "cuda".
        watch: Who is told.

    Raises:
        NotFound: There is no such method, cell, setting, base or feature extractor.
        UsageError: A setting, an engine or a place that cannot be meant.
        PicturesRefused: Pictures are missing.
        StoreDamaged: The results of a finished cell, the base or the judge are not as they were written.
        DeviceFailed: Cells failed; the others are finished.
        Busy: Another run has some of the cells; the others are finished.
    """
    watch = watch or Watch()
    made = choose_cells(spec, patterns)
    check_run(spec, engine, at_once, device)
    with writable(output):
        watch.stage("making base and pictures ready")
        cells = made(output.absolute(), watch.stage)
        finished = tuple(cell.name for cell in cells if is_finished(cell, output))
        _note(spec, cells, output)
        # Rows of one content are one cell.
        missing = list({cell.key: cell for cell in cells if cell.name not in finished}.values())
        if missing:
            watch.stage("opening what cells measure with")
            check_tools(missing)
        watch.begin(sum(cell.learned(output) for cell in missing), sum(cell.concepts for cell in missing))
        failed = run_cells(engine, missing, output.absolute(), device, watch.progress, at_once) if missing else {}
    _check(failed, len(cells))
    return Ran(output, tuple(cells), finished)


def _check(failed: Mapping[str, ConceptctlError], of: int) -> None:
    """Say what went wrong with cells; those that another run has are no failure, and are said where nothing else is."""
    really = {name: each for name, each in failed.items() if not isinstance(each, Busy)}
    if really:
        name, problem = next(iter(really.items()))
        kinds = {type(each) for each in really.values()}
        again = f"{'the others are finished; ' if len(failed) < of else ''}the same command tries these again"
        kind = kinds.pop() if len(kinds) == 1 else DeviceFailed
        raise kind(
            f"{len(really)} of {of} cells failed; {name}: {problem}",
            hint="; ".join(filter(None, (problem.hint, again))),
        )
    if failed:
        raise Busy(f"another run has {len(failed)} of {of} cells: {', '.join(failed)}")


def choose_cells(
    spec: Spec | ClassSpec, patterns: Sequence[str]
) -> Callable[[Path, Callable[[str], None]], Sequence[Cell]]:
    """What makes the cells that patterns name, given the output folder and who is told what takes long."""
    if isinstance(spec, ClassSpec):
        classes = chosen(spec.name, spec.entries, spec.seeds, patterns, CLASSIFIERS)
        return lambda output, tell: make_class_cells(spec, classes, output, tell)
    rows = chosen(spec.name, spec.entries, spec.seeds, patterns, METHODS)
    return lambda output, tell: make_cells(spec, rows, output, tell)


def is_finished(cell: Cell, output: Path) -> bool:
    """Whether a cell has its results; damaged ones are said, for nobody may lose them without knowing."""
    path = cell.home(output) / RESULTS
    return path.exists() and bool(read_results(path, classes=isinstance(cell, ClassCell)))


def check_run(spec: Spec | ClassSpec, engine: str, at_once: int | None, device: str) -> None:
    """Refuse an engine or a device that is not there, and a precision that the device does not learn in."""
    check_engine(engine, at_once)
    if engine != "local":
        return
    from conceptctl.diffusion.models import choose_device

    precision = None if isinstance(spec, ClassSpec) else spec.precision
    precision_of(Request(Path(), "x", mixed_precision=precision), choose_device(device).type)


def _note(spec: Spec | ClassSpec, cells: Sequence[Cell], output: Path) -> None:
    """Write down which cells belong to a spec, for the report."""
    folder = output / RUNS
    folder.mkdir(exist_ok=True)
    said: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(spec)))
    with FileLock(folder / f"{spec.name}-{spec.protocol.name}.lock"):
        path, before = _place(folder, said)
        # A row that the spec has no more, or has otherwise, is no part of it.
        same = [entry["label"] for entry in said["entries"] if entry in before["spec"].get("entries", ())]
        known = {name: key for name, key in before["cells"].items() if name.rpartition("/")[0] in same}
        noted = {**known, **{cell.name: cell.key for cell in cells}}
        names = [f"{entry.label}/{seed}" for entry in spec.entries for seed in spec.seeds]
        write_json(path, {"spec": said, "cells": {name: noted[name] for name in names if name in noted}})


def _place(folder: Path, spec: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Where a spec is noted, and what was noted there.

    Rows that were not learned on one base from one set of pictures, and drawn alike, are no rows of one table: a spec
    of the same name that has these otherwise gets a file of its own.
    """
    shared = {name: each for name, each in spec.items() if name in _SHARED}
    stem = f"{spec['name']}-{spec['protocol']['name']}"
    digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:6]
    first, own = folder / f"{stem}.json", folder / f"{stem}-{digest}.json"
    before = _noted_before(first)
    if not before["spec"] or {name: before["spec"].get(name) for name in shared} == shared:
        return first, before
    return own, _noted_before(own)


def _noted_before(path: Path) -> dict[str, Any]:
    return read_run(path) if path.exists() else {"spec": {}, "cells": {}}
