"""The concepts of a benchmark as folders of pictures, in the order of learning: of the bundled world, or a user's."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from conceptctl.errors import PicturesRefused
from conceptctl.pocket.world import concepts as world
from conceptctl.pocket.world.kinds import KINDS
from conceptctl.store.concept import check_name
from conceptctl.wording import count as counted
from conceptctl.workflows.bench.spec import Data

if TYPE_CHECKING:
    from conceptctl.pocket.world.kinds import Subject

LISTING = "concepts.json"


@dataclass(frozen=True)
class Item:
    """One concept, as it is learned and measured."""

    name: str
    class_word: str
    train: Path
    heldout: Path
    subject: Subject | None = field(default=None, compare=False)
    """What a judge must see; None for what is not of the bundled world."""


def world_sequence(data: Data, seed: int) -> tuple[world.Concept, ...]:
    """The concepts of the bundled world that a spec asks for; different seeds share none.

    Raises:
        UsageError: The world has no such kind.
    """
    return world.sequence(data.concepts or 0, seed, data.kinds)


def write_world(data: Data, seed: int, root: Path) -> Path:
    """Write a sequence of the bundled world below a folder, once, whoever else asks for it at the same time.

    Returns:
        The folder of the sequence.

    Raises:
        PicturesRefused: Some of the pictures that were written are not there any more.
    """
    name = f"{'-'.join(data.kinds) or 'mixed'}-{data.concepts}-{data.train}-{data.heldout}-seed-{seed}"

    def write(part: Path) -> Iterable[Any]:
        return world.write_folders(world_sequence(data, seed), part, training=data.train, heldout=data.heldout)

    folder = _written_once(root, name, write)
    for item in items_of(folder, data.concepts):
        # With fewer of them every cell would be another one.
        for part, count in ((item.train, data.train), (item.heldout, data.heldout)):
            if len(_files(part)) != count:
                raise PicturesRefused(
                    f"{part} has {len(_files(part))} pictures, not {count}",
                    hint=f"take {folder} away: the next run draws its pictures anew",
                )
    return folder


def write_styles(seed: int, root: Path) -> Path:
    """Write the bundled world's classes in styles of their own below a folder, once, whoever asks for it.

    Returns:
        The folder, with train/CLASS and test/CLASS.
    """
    from conceptctl.pocket.world.styles import write_styled

    return _written_once(root, f"styles-seed-{seed}", lambda part: write_styled(part, seed=seed))


def _written_once(root: Path, name: str, write: Callable[[Path], Iterable[Any]]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f"{name}.lock"):
        target = root / name
        if not target.exists():
            part = root / f"{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            for _ in write(part):
                pass
            part.rename(target)
    return target


def items_of(folder: Path, most: int | None = None) -> tuple[Item, ...]:
    """Read which concepts a folder of folders holds, in the order of its `concepts.json`.

    Args:
        folder: Holds NAME/train and NAME/heldout for each, and `concepts.json`.
        most: Only the first so many.

    Raises:
        PicturesRefused: Something of it is missing.
        UsageError: A name that no concept can have.
    """
    found = tuple(_item(folder, entry) for entry in _listing(folder)[:most])
    if most is not None and len(found) < most:
        raise PicturesRefused(
            f"{folder / LISTING} has {len(found)} concepts, and the spec asks for {most}",
            hint=f"[data] concepts = {len(found)} in a spec of yours (conceptctl bench show NAME prints a shipped one)",
        )
    if twice := sorted({each.name for each in found if sum(each.name == other.name for other in found) > 1}):
        raise PicturesRefused(f"{folder / LISTING}: {twice[0]!r} stands there twice", hint="another name for one")
    return found


def _listing(folder: Path) -> list[Mapping[str, Any]]:
    path = folder / LISTING
    hint = f'{{"concepts": [{{"name": "alice", "class": "person"}}]}} in {path}'
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["concepts"]
    except FileNotFoundError:
        raise PicturesRefused(f"{folder} has no {LISTING}", hint=hint) from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise PicturesRefused(f"{path} names no concepts: {error}", hint=hint) from None
    if not isinstance(entries, list) or not entries or not all(isinstance(each, Mapping) for each in entries):
        raise PicturesRefused(f"{path} names no concepts", hint=hint)
    return entries


def _item(folder: Path, entry: Mapping[str, Any]) -> Item:
    name, word = entry.get("name"), entry.get("class", "")
    if not isinstance(name, str) or not isinstance(word, str):
        raise PicturesRefused(f"{folder / LISTING}: a concept has a name and a class, both texts")
    check_name(name)
    # One picture alone says nothing of how different pictures of a concept are.
    for part, least in (("train", 1), ("heldout", 2)):
        if (found := len(_files(folder / name / part))) < least:
            raise PicturesRefused(
                f"{folder / name / part} has {counted(found, 'picture')}, and needs {least} or more",
                hint=f"{folder}/NAME/train, {folder}/NAME/heldout",
            )
    return Item(name, word, folder / name / "train", folder / name / "heldout", _subject(entry))


def _subject(entry: Mapping[str, Any]) -> Subject | None:
    """The identity of the bundled world that an entry tells of, where it tells of one and tells it right."""
    kind, seed = entry.get("class"), entry.get("seed")
    if kind not in KINDS or type(seed) is not int or not entry.get("attributes"):
        return None
    subject = world.concept(str(kind), seed).subject
    return subject if subject.shown() == entry["attributes"] else None


def digest_of(items: Iterable[Item]) -> str:
    """Return a digest of names, classes and every picture: what is learned, wherever it lies."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(f"{item.name}\0{item.class_word}\0".encode())
        for part in (item.train, item.heldout):
            for path in _files(part):
                digest.update(f"{part.name}/{path.name}\0".encode())
                with path.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
