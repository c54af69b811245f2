"""Where cells run: one process a device on this machine, or a Ray cluster."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from conceptctl.errors import DeviceFailed, NotFound, UsageError
from conceptctl.workflows.bench.cell import Cell
from conceptctl.workflows.bench.cell_run import run_or_fail

ENGINES = ("local", "ray")
RETRIES = 3
"""How often Ray begins a cell anew whose worker was lost; the cell goes on from its store."""
_POLL = 1.0
"""Seconds between two looks at how far the cells of other processes are."""

Progress = Callable[[str, int], None]
"""Told what goes on, and how many concepts of all cells have been learned and measured."""


def run_cells(engine: str, cells: Sequence[Cell], output: Path, device: str, progress: Progress) -> dict[str, str]:
    """Run cells, each once, and go on with the others when one fails.

    Args:
        engine: One of `ENGINES`.
        cells: What is not finished.
        output: Where; every process must see it.
        device: "auto", "cpu" or "cuda".
        progress: Who is told.

    Returns:
        What went wrong, by the cell's name; empty where nothing did.

    Raises:
        DeviceFailed: A process ended without a word.
    """
    if engine == "ray":
        return _with_ray(cells, output, device, progress)
    cards = _cards(_devices(device))[: len(cells)]
    if len(cards) < 2:
        return _in_turn(cells, output, device, progress)
    return _side_by_side(cells, output, "cuda", cards, progress)


def check_engine(engine: str) -> None:
    """Refuse what cannot run here.

    Raises:
        UsageError: There is no such engine.
        NotFound: Ray is not installed.
    """
    if engine not in ENGINES:
        raise UsageError(f"there is no engine {engine!r}", hint=", ".join(ENGINES))
    if engine == "ray":
        _ray()


def _devices(device: str) -> int:
    from conceptctl.diffusion.models import choose_device

    if choose_device(device).type != "cuda":
        return 1
    import torch

    return torch.cuda.device_count()


def _in_turn(cells: Sequence[Cell], output: Path, device: str, progress: Progress) -> dict[str, str]:
    failed, before = {}, 0
    for cell in cells:
        begun = before

        def tell(what: str, learned: int, begun: int = begun) -> None:
            progress(what, begun + learned)

        if problem := run_or_fail(cell, output, device, tell):
            failed[cell.name] = problem
        before += cell.learned(output)
    return failed


def _side_by_side(
    cells: Sequence[Cell], output: Path, device: str, cards: Sequence[str], progress: Progress
) -> dict[str, str]:
    """One process for each graphics card; each takes the next cell when it has done one."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    waiting, answers = context.Queue(), context.Queue()
    for cell in cells:
        waiting.put(cell)
    # Daemons: whatever ends this process ends them.
    workers = [
        context.Process(target=_work, args=(card, waiting, answers, output, device), daemon=True) for card in cards
    ]
    for worker in workers:
        waiting.put(None)
        worker.start()
    failed: dict[str, str] = {}
    for _ in cells:
        name, problem = _next_answer(workers, answers, lambda: _look(cells, output, progress))
        if problem:
            failed[name] = problem
    for worker in workers:
        worker.join()
    _look(cells, output, progress)
    return failed


def _next_answer(workers: Sequence[Any], answers: Any, meanwhile: Callable[[], None]) -> tuple[str, str]:
    """Wait for a cell to be done.

    Raises:
        DeviceFailed: A process ended without a word.
    """
    while True:
        lost = [worker.exitcode for worker in workers if worker.exitcode]
        try:
            found: tuple[str, str] = answers.get(timeout=_POLL)
            return found
        except queue.Empty:
            meanwhile()
        if lost:
            for worker in workers:
                worker.terminate()
            raise DeviceFailed(
                f"a process of the benchmark ended with {lost[0]}; memory may have run out",
                hint="the same command goes on where it was",
            )


def _work(card: str, waiting: Any, answers: Any, output: Path, device: str) -> None:
    """Run cells on one card until there are none left."""
    # Before CUDA is begun: from here on it is the only one that there is.
    os.environ["CUDA_VISIBLE_DEVICES"] = card
    while (cell := waiting.get()) is not None:
        answers.put((cell.name, run_or_fail(cell, output, device)))


def _cards(count: int) -> list[str]:
    """The cards of this machine that this process may use, as CUDA names them."""
    allowed = [card for card in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if card]
    return allowed[:count] or [str(number) for number in range(count)]


def _look(cells: Sequence[Cell], output: Path, progress: Progress) -> None:
    running = [cell.name for cell in cells if 0 < cell.learned(output) < cell.concepts]
    progress(", ".join(running[:2]), sum(cell.learned(output) for cell in cells))


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise NotFound("Ray is not installed", hint="pip install 'conceptctl[ray]'; or --engine local") from None
    return ray


def _with_ray(cells: Sequence[Cell], output: Path, device: str, progress: Progress) -> dict[str, str]:
    """Cells as tasks of the cluster that RAY_ADDRESS names, or of one on this machine that ends with the run."""
    from conceptctl.diffusion.models import choose_device

    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        cards = device == "cuda" or (device == "auto" and (choose_device(device).type == "cuda" or _has_cards(ray)))
        task = ray.remote(num_cpus=1, num_gpus=1 if cards else 0, max_retries=RETRIES, scheduling_strategy="SPREAD")(
            run_or_fail
        )
        wanted = "cuda" if cards else "cpu"
        open_ = {task.remote(cell, output, wanted): cell for cell in cells}
        failed: dict[str, str] = {}
        while open_:
            done, _ = ray.wait(list(open_), timeout=_POLL)
            _look(cells, output, progress)
            for reference in done:
                cell = open_.pop(reference)
                try:
                    problem = ray.get(reference)
                except ray.exceptions.RayTaskError:
                    # Our own bug, not Ray's news of a worker, a machine or its memory.
                    raise
                except ray.exceptions.RayError as error:
                    problem = f"its worker was lost {RETRIES + 1} times: {type(error).__name__}"
                if problem:
                    failed[cell.name] = problem
        return failed
    finally:
        if ours:
            ray.shutdown()


def _has_cards(ray: Any) -> bool:
    return bool(ray.cluster_resources().get("GPU"))
