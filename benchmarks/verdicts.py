"""Six concepts in sequence on the bundled base, two of them badly learned on purpose: do verdict and eye agree?

    python benchmarks/verdicts.py --workspace DIR                # about 15 minutes on one core
    python benchmarks/verdicts.py --workspace DIR --healthy      # two of another seed, learned as they should be
    python benchmarks/verdicts.py --workspace DIR --blobs        # one whose rate is absurdly high

After each lesson every concept so far is evaluated, so that the last report has a history; it is `report.html` in the
workspace. Everything that is done is kept there, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from conceptctl import families, pocket
from conceptctl.config import TrainConfig
from conceptctl.pocket.world.concepts import Concept, sequence, write_folders
from conceptctl.store import base
from conceptctl.store.store import Store
from conceptctl.workflows.evaluate.evaluation import Request as Asked
from conceptctl.workflows.evaluate.evaluation import Watch
from conceptctl.workflows.evaluate.run import evaluate
from conceptctl.workflows.learn.request import Request
from conceptctl.workflows.learn.run import learn

STEPS = 400
HELDOUT = 24
FIGURES = ("closeness", "closeness_learned", "A_mmd", "F_mmd", "noise_floor", "diversity")


@dataclass(frozen=True)
class Lesson:
    """How one concept is learned."""

    steps: int = STEPS
    mixed: bool = False
    """Whether half of its pictures show somebody else."""
    settings: Mapping[str, float] = field(default_factory=dict)


SIX = (Lesson(), Lesson(steps=25), Lesson(), Lesson(mixed=True), Lesson(), Lesson())
HEALTHY = (Lesson(), Lesson())
BLOBS = (Lesson(steps=100, settings={"learning_rate": 2.0}),)


def mix(concept: Concept, other: Concept, folder: Path) -> Path:
    """Make a folder of training pictures of which every second one shows another concept."""
    target = folder / f"{concept.name}-mixed"
    if not target.exists():
        target.mkdir()
        for index in range(12):
            shown = concept if index % 2 == 0 else other
            shown.training_view(index).save(target / f"{index:03d}.png")
    return target


def run(workspace: Path, lessons: tuple[Lesson, ...], seed: int, device: str) -> None:
    """Learn the lessons one after the other, and evaluate after each."""
    workspace.mkdir(parents=True, exist_ok=True)
    data, root = workspace / "data", workspace / "store"
    concepts = sequence(len(lessons), seed)
    if not (data / "concepts.json").exists():
        list(write_folders(concepts, data, heldout=HELDOUT))
    folder = pocket.base_folder()
    if not (root / "FORMAT").exists():
        Store.create(root, base.inspect(folder, families.recognized(folder).FAMILY), "pocket")
    store = Store(root)
    for index, (concept, lesson) in enumerate(zip(concepts, lessons, strict=True)):
        if store.head().concept(concept.name) is None:
            other = next(each for each in concepts[index + 1 :] + concepts if each.kind == concept.kind)
            request = Request(
                mix(concept, other, data) if lesson.mixed else data / concept.name / "train",
                concept.name,
                concept.kind,
                train=TrainConfig(steps=lesson.steps),
                settings=lesson.settings,
            )
            made = learn(store, request, device=device)
            print(f"learned {concept.name} in {made.seconds:.0f} s: {lesson}", flush=True)
        if sum(row.verb == "eval" for row in store.log()) <= index:
            evaluate(store, Asked(_heldout(data, concepts, workspace)), device=device)
    report = workspace / "report.html"
    report.unlink(missing_ok=True)
    found = evaluate(store, Asked(_heldout(data, concepts, workspace), report=report), device=device, watch=Watch())
    for each in found.measured:
        said, figures = each.kept.verdict, each.kept.figures
        print(f"{each.name}: {said['text']}. {said['sentence']}", flush=True)
        print("  " + ", ".join(f"{name} {figures[name]}" for name in FIGURES), flush=True)


def _heldout(data: Path, concepts: tuple[Concept, ...], workspace: Path) -> Path:
    """Held-out pictures in folders that are called like the concepts, and nothing else beside them."""
    target = workspace / "heldout"
    for concept in concepts:
        if not (target / concept.name).exists():
            shutil.copytree(data / concept.name / "heldout", target / concept.name)
    return target


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--healthy", action="store_true", help="two of another seed, learned as they should be")
    parser.add_argument("--blobs", action="store_true", help="one that is learned at an absurdly high rate")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lessons, seed = (HEALTHY, 77) if options.healthy else (BLOBS, 78) if options.blobs else (SIX, 8128)
    run(options.workspace, lessons, seed, options.device)


if __name__ == "__main__":
    main()
