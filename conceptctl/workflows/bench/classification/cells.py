"""Cells of a comparison of classifiers: one method, one seed, and everything that decides the result."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import conceptctl
from conceptctl.errors import UsageError
from conceptctl.images.class_folders import LabelledClass, classes_in, tasks_of
from conceptctl.methods import find_classifier
from conceptctl.presets import Preset, preset_for
from conceptctl.store import durable
from conceptctl.workflows.bench.cell import DATA, Cell
from conceptctl.workflows.bench.classification.spec import ClassSpec
from conceptctl.workflows.bench.sequences import write_styles
from conceptctl.workflows.bench.spec import Entry, whole_path
from conceptctl.workflows.classification.settings import settings_of

STATE = "state.safetensors"
"""What a cell has learned so far."""
TASKS = "tasks"
VERSION = 2
"""Of what a cell does: another number, and every cell is run anew."""


@dataclass(frozen=True)
class ClassCell(Cell):
    """One method, one order of tasks, one seed."""

    MEASURED: ClassVar[str] = f"{TASKS}/*.json"

    config: Mapping[str, Any]
    """Every setting of the method."""
    epochs: int
    base: str
    """As `families.vit.load` takes it."""
    tasks: tuple[tuple[LabelledClass, ...], ...]
    """Those that are learned; all classes in one for what is learned at once."""


def make_cells(
    spec: ClassSpec,
    rows: Sequence[tuple[Entry, int]],
    output: Path,
    tell: Callable[[str], None] = lambda text: None,
) -> list[ClassCell]:
    """Prepare cells: every setting is checked, and their pictures are there afterwards.

    Raises:
        NotFound: There is no such method, base or setting.
        PicturesRefused: A picture is none, or none is there.
        UsageError: A setting that cannot be meant, or more tasks than classes.
    """
    import torch

    from conceptctl.families import vit

    base = whole_path(spec.base) or vit.BUNDLED
    preset = preset_for(vit.NAME, base)
    configs = {entry.label: _config(entry, spec, preset) for entry, _ in rows}
    # A cell would find out after the pictures are drawn, and every cell anew.
    digest = vit.load(base, torch.device("cpu")).sha256
    if spec.data.folder:
        tell("looking at the pictures")
        folders = {seed: Path(spec.data.folder).absolute() for _, seed in rows}
    else:
        tell("drawing the pictures")
        folders = {seed: write_styles(seed, output / DATA) for _, seed in rows}
    classes = {folder: classes_in(folder) for folder in set(folders.values())}
    pictures = {folder: _digest_of(found) for folder, found in classes.items()}
    made = []
    for entry, seed in rows:
        folder = folders[seed]
        tasks = tasks_of(classes[folder], spec.data.tasks, seed)[: spec.data.learned or None]
        content: dict[str, Any] = {
            "version": VERSION,
            "program": conceptctl.__version__,
            "kind": spec.kind,
            "method": entry.method,
            "config": configs[entry.label],
            "epochs": spec.protocol.epochs or preset.learn.epochs,
            "joint": entry.joint,
            "seed": seed,
            "base": digest,
            "pictures_sha256": pictures[folder],
            "tasks": [[each.name for each in task] for task in tasks],
        }
        made.append(_cell(entry, seed, base, tasks, content))
    return made


def _cell(
    entry: Entry, seed: int, base: str, tasks: tuple[tuple[LabelledClass, ...], ...], content: dict[str, Any]
) -> ClassCell:
    learned = (tuple(each for task in tasks for each in task),) if entry.joint else tasks
    return ClassCell(
        label=entry.label,
        method=entry.method,
        seed=seed,
        concepts=len(learned),
        content=content,
        config=content["config"],
        epochs=content["epochs"],
        base=base,
        tasks=learned,
    )


def _config(entry: Entry, spec: ClassSpec, preset: Preset) -> dict[str, Any]:
    """Every setting of a row: the method's, the preset's, the protocol's, the spec's."""
    found = find_classifier(entry.method)
    protocol = {"batch_size": spec.protocol.batch_size} if spec.protocol.batch_size else {}
    if "steps" in entry.settings:
        raise UsageError(f"{entry.label}: classes are learned in epochs, not in steps", hint="[protocol] epochs = 50")
    return dataclasses.asdict(settings_of(found, preset, {**protocol, **entry.settings}))


def _digest_of(classes: Sequence[LabelledClass]) -> str:
    """One digest over which pictures there are of which class."""
    lines = [
        f"{each.name} {part} {path.name} {durable.file_digest(path)}"
        for each in classes
        for part, paths in (("train", each.train), ("test", each.test))
        for path in paths
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
