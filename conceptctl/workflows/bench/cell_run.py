"""One cell, whatever is learned in it: once, by one process, and what goes wrong is kept beside it."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from conceptctl.errors import Busy, ConceptctlError, NoSpace
from conceptctl.store.manifest import now
from conceptctl.workflows.bench.cell import FAILED, RESULTS, Cell, Tell
from conceptctl.workflows.bench.cells import ConceptCell
from conceptctl.workflows.bench.classification.cell_run import run_class_cell
from conceptctl.workflows.bench.classification.cells import ClassCell
from conceptctl.workflows.bench.concept_run import ConceptRun
from conceptctl.workflows.bench.joint_run import JointRun
from conceptctl.workflows.bench.noted import write_json


def run_cell(cell: Cell, output: Path, device: str, tell: Tell = lambda what, learned: None) -> None:
    """Learn and measure what is missing of a cell, and write its results; nothing where they are there.

    Raises:
        Busy: Another process runs the cell.
        ConceptctlError: Whatever `learn` raises.
    """
    home = cell.home(output)
    home.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(home / "lock", timeout=0):
            if (home / RESULTS).exists():
                return
            if isinstance(cell, ClassCell):
                run_class_cell(cell, home, device, tell)
            elif isinstance(cell, ConceptCell):
                (JointRun if cell.joint else ConceptRun)(cell, home, device, tell).whole()
    except Timeout:
        raise Busy(f"cell {cell.name} is being run by another process") from None


def run_or_fail(
    cell: Cell, output: Path, device: str, tell: Tell = lambda what, learned: None
) -> ConceptctlError | None:
    """Run a cell, and keep an error that a user can act on beside it, so that the others go on.

    Returns:
        What went wrong; None where nothing did.
    """
    failed = cell.home(output) / FAILED
    try:
        run_cell(cell, output, device, tell)
    except Busy as error:
        # Nothing is wrong with the cell.
        return error
    except ConceptctlError as error:
        problem = error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        problem = NoSpace(f"{cell.home(output)}: {error.strerror}")
    else:
        failed.unlink(missing_ok=True)
        return None
    said = {"kind": type(problem).__name__, "message": str(problem), "hint": problem.hint, "time": now()}
    # A full disk has no room for this either.
    with suppress(OSError, NoSpace):
        write_json(failed, said)
    return problem
