"""One cell, from the pretrained transformer to its results; a run that was killed goes on after its last task."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptctl.errors import StoreDamaged
from conceptctl.images.class_folders import LabelledClass, read_pictures
from conceptctl.methods import find_classifier
from conceptctl.store.manifest import now
from conceptctl.workflows.bench.cell import RESULTS, Tell
from conceptctl.workflows.bench.classification.cells import STATE, TASKS, ClassCell
from conceptctl.workflows.bench.noted import program, read_noted, write_file, write_results

if TYPE_CHECKING:
    from torch import Tensor

    from conceptctl.families.vit import VitBackbone
    from conceptctl.workflows.classification.learner import Learner, Taught


def run_class_cell(cell: ClassCell, home: Path, device: str, tell: Tell) -> None:
    """Learn and measure what is missing of a cell, and write its results.

    Raises:
        NotFound: The base is not there any more.
        PicturesRefused: A picture cannot be decoded.
        DeviceFailed: The loss is no number any more.
    """
    from conceptctl.diffusion.models import choose_device
    from conceptctl.families import vit
    from conceptctl.workflows.classification.learner import Learner

    (home / TASKS).mkdir(exist_ok=True)
    made_by = program()
    found = find_classifier(cell.method)
    backbone = vit.load(cell.base, choose_device(device))
    learner = Learner(backbone, found, found.configuration(**cell.config), epochs=cell.epochs, seed=cell.seed)
    network = backbone.parameter_count()
    done = _take_up(learner, home)
    tested: list[tuple[Tensor, list[str]]] = [_tested(backbone, task) for task in cell.tasks[:done]]
    for number, task in enumerate(cell.tasks[done:], done):
        tell(f"{cell.name}: task {number + 1}", number)
        began = time.monotonic()
        names = [each.name for each in task]
        pixels, labels = _pictures(backbone, task, "train")
        taught = learner.learn(names, pixels, labels)
        seconds = time.monotonic() - began
        tested.append(_tested(backbone, task))
        answers = [_answers(learner, pictures) for pictures, _ in tested]
        entry = {
            "classes": names,
            "labels": tested[-1][1],
            "answers": answers,
            "seconds": seconds,
            **_costs(taught, network),
        }
        _keep(learner, home, number, entry)
    entries = [read_noted(path) for path in sorted((home / TASKS).glob("*.json"))]
    results = {
        "cell": {"key": cell.key, **cell.content},
        "tasks": entries,
        "device": str(backbone.device.type),
        "program": made_by,
        "finished": now(),
    }
    write_results(home / RESULTS, results)
    (home / STATE).unlink(missing_ok=True)


def _pictures(backbone: VitBackbone, task: Sequence[LabelledClass], part: str) -> tuple[Tensor, list[str]]:
    """The pictures of a task as the backbone takes them, and the class of each."""
    paths = [(path, each.name) for each in task for path in getattr(each, part)]
    pixels = backbone.encode(read_pictures([path for path, _ in paths], backbone.side))
    return pixels, [name for _, name in paths]


def _tested(backbone: VitBackbone, task: Sequence[LabelledClass]) -> tuple[Tensor, list[str]]:
    return _pictures(backbone, task, "test")


def _answers(learner: Learner, pixels: Tensor) -> list[str]:
    """What pictures are taken for."""
    return [learner.names[place] for place in learner.classify(pixels).argmax(1).tolist()]


def _costs(taught: Taught, network: int) -> dict[str, float]:
    return {
        "steps": taught.steps,
        "n_param_trained": 100 * taught.trained / network,
        "n_param_stored": 100 * taught.kept / network,
    }


def _take_up(learner: Learner, home: Path) -> int:
    """Put back what an earlier run learned, and return how many tasks that is."""
    from safetensors import SafetensorError, safe_open

    if not (home / STATE).exists():
        return 0
    try:
        with safe_open(home / STATE, "pt") as stream:
            about = json.loads(stream.metadata()["about"])
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise StoreDamaged(f"{home / STATE}: {error}", hint="take it away: the cell begins anew") from None
    learner.restore(tensors, about["names"], about["tasks"])
    # What a task found is written before what it learned: a task that lacks the latter is learned again.
    return learner.tasks


def _keep(learner: Learner, home: Path, number: int, entry: dict[str, Any]) -> None:
    from safetensors.torch import save

    write_file(home / TASKS / f"{number:04d}.json", json.dumps(entry).encode())
    about = json.dumps({"names": learner.names, "tasks": learner.tasks})
    write_file(home / STATE, save(learner.tensors(), metadata={"about": about}))
