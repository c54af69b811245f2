"""Cells in which one method learns one sequence of concepts with one seed."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock

import conceptctl
from conceptctl import families
from conceptctl.config import TrainConfig
from conceptctl.errors import ConceptctlError, PicturesRefused, StoreDamaged
from conceptctl.learning.method import Method
from conceptctl.presets import Preset, preset_of
from conceptctl.store import base
from conceptctl.store.store import Store
from conceptctl.workflows.bench import measures, sequences
from conceptctl.workflows.bench.cell import DATA, Cell
from conceptctl.workflows.bench.joint import check_joint
from conceptctl.workflows.bench.sequences import Item
from conceptctl.workflows.bench.spec import Entry, Spec, whole_path
from conceptctl.workflows.evaluate.heldout import read_pictures
from conceptctl.workflows.init import digest_of, initialize
from conceptctl.workflows.learn.images import check_pictures
from conceptctl.workflows.learn.request import Request, Watch, check_facts, make_method

BASES = "bases"
"""The folder of an output folder that holds a store on each base, without concepts."""
STORE, DRAWN = "store", "drawn"
"""What such a cell's folder holds beside."""
VERSION = 1
"""Of what a cell does: another number, and every cell is run anew."""


@dataclass(frozen=True)
class ConceptCell(Cell):
    """One method, one sequence, one seed, with everything that decides the result."""

    MEASURED: ClassVar[str] = f"{DRAWN}/*-learned.json"

    alone: bool
    joint: bool
    settings: Mapping[str, Any]
    """What the spec sets of the method."""
    steps: int
    batch_size: int
    pictures: int
    sampling_steps: int
    guidance: float
    evaluations: tuple[int, ...]
    """After how many concepts all so far are drawn again."""
    pairs: int
    classified: int
    fisher: int
    """As a `Protocol` has the two."""
    base: Path
    """A store without concepts, on the base; copied for the cell."""
    folder: Path
    """The folder of the sequence."""
    feature_extractor: str | None
    precision: str | None


@dataclass(frozen=True)
class _Common:
    """What all cells of a run have in common."""

    store: Store
    """On the base, without concepts."""
    preset: Preset
    features: str
    """What makes the features that are compared: a preset's name for it, or the digest of what a spec names."""


def make_cells(
    spec: Spec, rows: Sequence[tuple[Entry, int]], output: Path, tell: Callable[[str], None] = lambda text: None
) -> list[ConceptCell]:
    """Prepare cells: their base and their pictures are there afterwards, and every setting is checked.

    Args:
        spec: The spec.
        rows: What `chosen` returned.
        output: The output folder.
        tell: Told what takes long.

    Raises:
        NotFound: There is no such base, feature extractor or setting.
        PicturesRefused: Pictures are missing.
        UsageError: A setting that cannot be meant.
    """
    if spec.data.folder:
        # A base is copied, and what a folder lacks is seen at once.
        sequences.items_of(Path(spec.data.folder), spec.data.concepts)
    with _base_store(spec.base, output / BASES) as store:
        preset = preset_of(store.head().base)
        configs = {entry.label: resolved(spec, entry, preset) for entry, _ in rows}
        common = _Common(store, preset, _features(spec, store, preset))
        data = {seed: _prepared(spec, seed, output, store, tell) for seed in dict.fromkeys(seed for _, seed in rows)}
        return [_cell(spec, entry, seed, configs[entry.label], common, *data[seed]) for entry, seed in rows]


def check_tools(cells: Sequence[Cell]) -> None:
    """Open once what cells measure with, and look whether the base is whole: each would fail by it after hours.

    Raises:
        NotFound: The feature extractor cannot be had, or is none.
        StoreDamaged: The base's store, or the judge, is not as it was written.
    """
    import torch

    from conceptctl.workflows.extractor import open_extractor

    needed = {(cell.base, cell.feature_extractor) for cell in cells if isinstance(cell, ConceptCell)}
    for place, feature_extractor in needed:
        store = Store(place)
        try:
            with base.folder(store.layout, store.head()):
                pass
        except StoreDamaged as error:
            raise _damaged(place, error) from None
        open_extractor(store.head().base, feature_extractor, torch.device("cpu"))
        measures.open_judge(store.head().base)


def _features(spec: Spec, store: Store, preset: Preset) -> str:
    """What decides the features, whatever the folder is called that it is in."""
    if spec.feature_extractor is None:
        return preset.learn.feature_extractor
    import torch

    from conceptctl.workflows.extractor import open_extractor

    return open_extractor(store.head().base, spec.feature_extractor, torch.device("cpu")).sha256


@contextmanager
def _base_store(named: str, root: Path) -> Iterator[Store]:
    """An empty store on a base, made once an output folder; what was made for what is refused goes again."""
    slug = re.sub(r"[^a-z0-9]+", "-", Path(named).name.lower()).strip("-") or "base"
    place = root / f"{slug}-{hashlib.sha256(whole_path(named).encode()).hexdigest()[:8]}"
    root.mkdir(parents=True, exist_ok=True)
    lock = place.with_suffix(".lock")
    with FileLock(lock):
        digest = digest_of(named, root) if (place / "FORMAT").exists() else None
        if digest and digest != Store(place).head().base.sha256:
            # What is named is another model now.
            place = place.with_name(f"{place.name}-{digest[:8]}")
        made = not (place / "FORMAT").exists()
        try:
            if made:
                initialize(place, named)
            store = Store(place)
            families.check_draws(store.head().base, instead="--base with a model that draws")
            yield store
        except StoreDamaged as error:
            raise _damaged(place, error) from None
        except ConceptctlError:
            if made:
                shutil.rmtree(place, ignore_errors=True)
                # Whoever waits for it sees that it is gone, and makes another.
                lock.unlink()
                with suppress(OSError):
                    root.rmdir()
            raise


def _damaged(place: Path, error: StoreDamaged) -> StoreDamaged:
    return StoreDamaged(str(error), hint=f"take {place} away: the next run makes it anew")


def resolved(spec: Spec, entry: Entry, preset: Preset) -> dict[str, Any]:
    """Return every setting that a row is learned with; errors are those of `method_of`."""
    method = method_of(spec, entry, preset)
    if entry.joint:
        check_joint(method)
    return dataclasses.asdict(method.config)


def method_of(spec: Spec, entry: Entry, preset: Preset) -> Method:
    """Return what a row is learned with: the method, with the preset's settings, the protocol's, and the spec's.

    Raises:
        NotFound: The method has no such setting.
        UsageError: A setting that cannot be meant.
    """
    train = train_config(entry.method, spec.protocol)
    request = Request(Path(), "x", "thing", train, settings=entry.settings, mixed_precision=spec.precision)
    check_facts(request)
    return make_method(request, preset)


def train_config(method: str, protocol: Any, seed: int = 0) -> TrainConfig:
    """What `learn` is asked for by a protocol, or by a cell."""
    return TrainConfig(method=method, steps=protocol.steps, batch_size=protocol.batch_size, seed=seed)


def _prepared(
    spec: Spec, seed: int, output: Path, store: Store, tell: Callable[[str], None]
) -> tuple[Path, tuple[Item, ...], str]:
    """The folder of a sequence, its concepts and its digest."""
    if not spec.data.folder:
        tell(f"drawing the sequence of seed {seed}")
    folder = Path(spec.data.folder) if spec.data.folder else sequences.write_world(spec.data, seed, output / DATA)
    items = sequences.items_of(folder, spec.data.concepts)
    tell("looking at the pictures")
    # Those that this program draws are all alike.
    _check_pictures(spec, store, items if spec.data.folder else items[:1])
    return folder.absolute(), items, sequences.digest_of(items)


def _check_pictures(spec: Spec, store: Store, items: Sequence[Item]) -> None:
    """Let everything through the gate once: what `learn` and `eval` would refuse hours later is refused now."""
    head = store.head()
    try:
        for item in items:
            request = Request(item.train, item.name, item.class_word)
            check_facts(request)
            check_pictures(store, head, request, Watch())
        read_pictures(store, head, {f"{item.name}/{item.heldout.name}": item.heldout for item in items})
    except PicturesRefused as error:
        # What it would say is for `learn`, which can leave pictures out.
        hint = "fix or remove them" if spec.data.folder else "a folder with pictures for this base: --data DIR"
        raise PicturesRefused(str(error), hint=hint) from None


def _cell(
    spec: Spec,
    entry: Entry,
    seed: int,
    config: dict[str, Any],
    common: _Common,
    folder: Path,
    items: tuple[Item, ...],
    digest: str,
) -> ConceptCell:
    protocol, preset, count = spec.protocol, common.preset, len(items)
    drawn: dict[str, Any] = {
        "pictures": protocol.pictures or preset.learn.reference_samples,
        "sampling_steps": protocol.sampling_steps or preset.sampling.steps,
        "guidance": preset.sampling.guidance,
        "evaluations": list(evaluation_times(count, protocol.evaluations)) if entry.in_sequence else [],
        "pairs": min(protocol.pairs, count - 1) if entry.in_sequence else 0,
    }
    checks = _checks(spec, entry)
    content = {
        "version": VERSION,
        "program": conceptctl.__version__,
        "method": entry.method,
        "config": config,
        "alone": entry.alone,
        # Cells that were there before there was such a training keep their names.
        **({"joint": True} if entry.joint else {}),
        "seed": seed,
        "base": common.store.head().base.sha256,
        "pictures_sha256": digest,
        "auxiliary": preset.learn.auxiliary,
        "precision": spec.precision,
        "feature_extractor": common.features,
        **drawn,
        # So do cells that check nothing.
        **{name: each for name, each in checks.items() if each},
    }
    return ConceptCell(
        label=entry.label,
        method=entry.method,
        seed=seed,
        alone=entry.alone,
        joint=entry.joint,
        settings=dict(entry.settings),
        # The spec's own settings have the last word, also over a protocol's.
        steps=config["steps"],
        batch_size=config["batch_size"],
        base=common.store.layout.root,
        folder=folder,
        concepts=count,
        feature_extractor=whole_path(spec.feature_extractor) if spec.feature_extractor else None,
        precision=spec.precision,
        content=content,
        **{**drawn, **checks, "evaluations": tuple(drawn["evaluations"])},
    )


def _checks(spec: Spec, entry: Entry) -> dict[str, int]:
    """What is checked of classifier scores; see `Protocol`."""
    # It brings torch, as the methods do.
    from conceptctl.workflows.bench.classifier_scores import has_fisher

    protocol = spec.protocol
    return {
        "classified": protocol.classified if entry.in_sequence else 0,
        "fisher": protocol.fisher if entry.in_sequence and has_fisher(entry.method) else 0,
    }


def evaluation_times(concepts: int, evaluations: int) -> tuple[int, ...]:
    """After how many concepts everything so far is drawn again: evenly over the sequence, and at its end."""
    times = {-(-concepts * part // evaluations) for part in range(1, evaluations + 1)}
    return tuple(sorted(times))


def copy_store(source: Path, target: Path) -> Store:
    """Make a store like one that has no concepts; blobs never change, so both may have the same files."""
    if not target.exists():
        part = target.with_name(f"{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        # Not `copytree`, whose errors do not say what the system said.
        for path in sorted(source.rglob("*")):
            if path.is_dir():
                (part / path.relative_to(source)).mkdir()
            else:
                _linked(str(path), str(part / path.relative_to(source)))
        part.rename(target)
    return Store(target)


def _linked(source: str, target: str) -> None:
    if f"{os.sep}blobs{os.sep}" in source:
        try:
            os.link(source, target)
            return
        except OSError:
            # Another file system, or one without links.
            pass
    shutil.copy2(source, target)
