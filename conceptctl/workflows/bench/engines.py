"""Where cells run: several processes on this machine, or a Ray cluster."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptctl.errors import ConceptctlError, DeviceFailed, NotFound, UsageError
from conceptctl.workflows.bench.cell import Cell
from conceptctl.workflows.bench.cell_run import run_or_fail
from conceptctl.workflows.bench.cells import ConceptCell

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

ENGINES = ("local", "ray")
RETRIES = 3
"""How often Ray begins a cell anew whose worker was lost; the cell goes on from its store."""
_POLL = 1.0
"""Seconds between two looks at how far the cells of other processes are."""
_PATIENCE = 60.0
"""Seconds that a process has to save what it has learned, when the run is ended."""
_LEAST_MEMORY, _TIMES_THE_BASE = 1 << 30, 3
"""What a process takes on a CPU, about: so many bytes, and so many times those of the base's weights."""

Progress = Callable[[str, int], None]
"""Told what goes on, and how many concepts of all cells have been learned and measured."""


def run_cells(
    engine: str, cells: Sequence[Cell], output: Path, device: str, progress: Progress, at_once: int | None = None
) -> dict[str, ConceptctlError]:
    """Run cells, each once, and go on with the others when one fails.

    Args:
        engine: One of `ENGINES`.
        cells: What is not finished.
        output: Where; every process must see it.
        device: "auto", "cpu" or "cuda".
        progress: Who is told.
        at_once: How many run at the same time on this machine; None for one a graphics card, or one a core of a CPU
            as far as its memory goes.

    Returns:
        What went wrong, by the cell's name; empty where nothing did.
    """
    if engine == "ray":
        return _with_ray(cells, output, device, progress)
    from conceptctl.diffusion.models import choose_device

    chosen = choose_device(device).type
    places = (_cards() if chosen == "cuda" else _on_cpu(cells))[: len(cells)]
    if at_once is not None:
        # More than one of them may share a card.
        places = [places[number % len(places)] for number in range(min(at_once, len(cells)))]
    if len(places) < 2:
        return _in_turn(cells, output, device, progress)
    return _side_by_side(cells, output, chosen, places, progress)


def check_engine(engine: str, at_once: int | None = None) -> None:
    """Refuse what cannot run here.

    Raises:
        UsageError: There is no such engine, or it does not run so many cells at once.
        NotFound: Ray is not installed.
    """
    if engine not in ENGINES:
        raise UsageError(f"there is no engine {engine!r}", hint=", ".join(ENGINES))
    if at_once is not None and (at_once < 1 or engine != "local"):
        raise UsageError(f"--at-once {at_once} cannot be meant", hint="a number from 1 on, of --engine local")
    if engine == "ray":
        _ray()


def _cards() -> list[Mapping[str, str]]:
    """What the environment of a process is, for each graphics card that this process may use."""
    import torch

    count = torch.cuda.device_count()
    allowed = [card for card in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if card]
    return [{"CUDA_VISIBLE_DEVICES": card} for card in allowed[:count] or map(str, range(count))]


def _on_cpu(cells: Sequence[Cell]) -> list[Mapping[str, str]]:
    """The same for each process on the CPU, a core each: of a small model's threads one waits for the other."""
    weights = max((_weights(cell.base) for cell in cells if isinstance(cell, ConceptCell)), default=0)
    room = _free_memory() // (_LEAST_MEMORY + _TIMES_THE_BASE * weights)
    count = max(1, min(_cores(), len(cells), room))
    return [{"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}] * count


def _cores() -> int:
    """The cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        # Not on macOS, nor on Windows.
        return os.cpu_count() or 1


def _weights(store: Path) -> int:
    """The bytes of a store without concepts."""
    return sum(path.stat().st_size for path in (store / "blobs").rglob("*") if path.is_file())


def _free_memory() -> int:
    """The bytes that nobody needs; more than there can be where the system does not say."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        return int(lines["MemAvailable"].split()[0]) << 10
    except (OSError, ValueError, KeyError):
        return 1 << 62


def _in_turn(cells: Sequence[Cell], output: Path, device: str, progress: Progress) -> dict[str, ConceptctlError]:
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
    cells: Sequence[Cell], output: Path, device: str, places: Sequence[Mapping[str, str]], progress: Progress
) -> dict[str, ConceptctlError]:
    """A process for each cell, as many at once as there are places: the next begins where one has ended.

    Args:
        cells: The cells.
        output: Where.
        device: "cpu" or "cuda".
        places: What is another in the environment of a process that has this place.
        progress: Who is told.
    """
    waiting, free = list(cells), list(places)
    running: list[_Running] = []
    failed: dict[str, ConceptctlError] = {}
    try:
        while waiting or running:
            while waiting and free:
                running.append(_Running(waiting.pop(0), free.pop(0), output, device))
            connection.wait([each.process.sentinel for each in running], timeout=_POLL)
            for each in [each for each in running if not each.process.is_alive()]:
                running.remove(each)
                free.append(each.place)
                if problem := each.problem():
                    failed[each.cell.name] = problem
            _look(cells, output, progress, [each.cell.name for each in running])
    finally:
        # Whatever ends this run ends all of it.
        for each in running:
            each.process.terminate()
        for each in running:
            each.process.join(_PATIENCE)
            each.process.kill()
    return failed


class _Running:
    """A cell that runs in a process of its own."""

    def __init__(self, cell: Cell, place: Mapping[str, str], output: Path, device: str) -> None:
        import multiprocessing

        context = multiprocessing.get_context("spawn")
        self.cell, self.place = cell, place
        self._said, says = context.Pipe(duplex=False)
        self.process: SpawnProcess = context.Process(target=_work, args=(cell, output, device, says), daemon=True)
        # What a library reads when it is loaded must be there before.
        with _environment(place), _ignoring_interrupts():
            self.process.start()
        says.close()

    def problem(self) -> ConceptctlError | None:
        """What went wrong, when the process has ended."""
        try:
            found: ConceptctlError | None = self._said.recv()
            return found
        except EOFError:
            code = self.process.exitcode or 0
            why = "; memory may have run out, and --at-once 1 takes least" if code < 0 else ""
            return DeviceFailed(f"its process ended with {code}{why}")


@contextmanager
def _environment(changed: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """A terminal interrupts every process of a command: those begun meanwhile leave it to this one to end them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(cell: Cell, output: Path, device: str, says: Any) -> None:
    """Run one cell in this process, and say what went wrong."""
    import multiprocessing

    def end() -> None:
        parent = multiprocessing.parent_process()
        if parent:
            parent.join()
        # It was killed, and nobody waits for this cell any more: the next run must find its lock free.
        os._exit(1)

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    threading.Thread(target=end, daemon=True).start()
    signal.signal(signal.SIGTERM, interrupt)
    # Whoever is interrupted has saved what was learned.
    with suppress(KeyboardInterrupt):
        says.send(run_or_fail(cell, output, device))


def _look(cells: Sequence[Cell], output: Path, progress: Progress, running: Sequence[str] | None = None) -> None:
    """Tell how far all cells are together, and which go on: of those of other machines by what they have written."""
    if running is None:
        running = [cell.name for cell in cells if 0 < cell.learned(output) < cell.concepts]
    progress(", ".join(running[:2]), sum(cell.learned(output) for cell in cells))


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise NotFound("Ray is not installed", hint="pip install 'conceptctl[ray]'; or --engine local") from None
    return ray


def _with_ray(cells: Sequence[Cell], output: Path, device: str, progress: Progress) -> dict[str, ConceptctlError]:
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
        failed: dict[str, ConceptctlError] = {}
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
                    problem = DeviceFailed(f"its worker was lost {RETRIES + 1} times: {type(error).__name__}")
                if problem:
                    failed[cell.name] = problem
        return failed
    finally:
        if ours:
            ray.shutdown()


def _has_cards(ray: Any) -> bool:
    return bool(ray.cluster_resources().get("GPU"))
