"""Held-out pictures: which folder belongs to which concept, and all of them through the picture gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conceptctl import families
from conceptctl.errors import NotFound, PicturesRefused
from conceptctl.images import files
from conceptctl.presets import preset_of
from conceptctl.progress import Progress, ignore
from conceptctl.store import base
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store, unknown_concept

if TYPE_CHECKING:
    from PIL import Image

FEWEST = 2
"""Different pictures that a figure needs: how far apart they are is one of the figures."""
INNER = "heldout"
"""Where `bench data` puts them inside a concept's folder."""
LESSONS = ("train", "training", "learn")
"""What folders are called that pictures are learned from."""


@dataclass(frozen=True)
class Folders:
    """Which folder holds the held-out pictures of which concept."""

    of: Mapping[str, Path]
    """By the concept's name, in the order of learning."""
    without: tuple[str, ...]
    """Concepts that have none."""
    strange: tuple[str, ...]
    """Folders that are called like no concept."""


@dataclass(frozen=True)
class Read:
    """Held-out pictures by the concept's name, and the names of those whose pictures look like photographs."""

    pictures: Mapping[str, list[Image.Image]]
    photographs: frozenset[str]


def find_folders(folder: Path | None, named: Mapping[str, Path], head: Generation) -> Folders:
    """Match folders with concepts: FOLDER/NAME/heldout where it is there, else FOLDER/NAME.

    Args:
        folder: Holds a folder for each concept, called like it.
        named: Folders that were given for single concepts; they come first.
        head: The concepts that there are.

    Raises:
        NotFound: There is no such concept.
        PicturesRefused: There is no such folder, or nothing in it fits anything.
    """
    known = [concept.name for concept in head.concepts]
    if not known:
        raise NotFound("the store has no concepts", hint="conceptctl learn DIR --token NAME")
    for name in named:
        if name not in known:
            raise unknown_concept(name, head)
    inside = {path.name: path for path in _folders(folder)} if folder else {}
    found = {name: _inner(path) for name, path in {**inside, **named}.items() if name in known}
    if not found:
        raise PicturesRefused(
            f"no concept has held-out pictures in {folder}",
            hint=f"a folder of pictures for each, called like it: {folder}/{known[0]}/*.png, or --images "
            f"{known[0]}=DIR",
        )
    return Folders(
        {name: found[name] for name in known if name in found},
        tuple(name for name in known if name not in found),
        tuple(sorted(set(inside) - set(known))),
    )


def _folders(folder: Path) -> list[Path]:
    found = files.entries(folder, "name a folder that holds one folder of pictures a concept")
    return [path for path in found if path.is_dir() and not path.name.startswith(".")]


def _inner(folder: Path) -> Path:
    return folder / INNER if (folder / INNER).is_dir() else folder


def read_pictures(
    store: Store,
    head: Generation,
    folders: Mapping[str, Path],
    *,
    skip_bad: bool = False,
    first_frame: bool = False,
    follow_symlinks: bool = False,
    progress: Progress = ignore,
    warn: Callable[[str], None] = lambda text: None,
) -> Read:
    """Read every folder's pictures as squares of the base's size, by the rules that `learn` has, captions apart.

    Args:
        store: The store.
        head: Whose base decides the size.
        folders: By the concept's name.
        skip_bad: Go on without the pictures that are refused.
        first_frame: Take the first frame of animations.
        follow_symlinks: Read what links point to.
        progress: Called with the number of files judged and of all files of a folder.
        warn: Called with what a user should know.

    Raises:
        PicturesRefused: Something is no usable picture; every such file of every folder is named.
    """
    from conceptctl.images.gate import Rules, check_folder

    side = families.family_of(head.base).picture_side(base.configs(store.layout, head.base))
    rules = Rules(
        side,
        preset_of(head.base).learn.smallest_side or side,
        fewest=FEWEST,
        skip_bad=skip_bad,
        first_frame=first_frame,
        follow_symlinks=follow_symlinks,
        captioned=False,
    )
    pictures: dict[str, list[Image.Image]] = {}
    photographs = set()
    refusals: list[PicturesRefused] = []
    for name, folder in folders.items():
        try:
            checked = check_folder(folder, rules, progress=progress)
        except PicturesRefused as refused:
            refusals.append(refused)
            continue
        for note in (*checked.notes, *map(str, checked.refusals)):
            warn(f"{name}: {note}")
        if checked.photographic:
            photographs.add(name)
        pictures[name] = [picture.image() for picture in checked.pictures]
    if refusals:
        raise PicturesRefused("\n".join(map(str, refusals)), hint=refusals[0].hint)
    return Read(pictures, frozenset(photographs))


def learned_from(folder: Path) -> str:
    """Say whether held-out pictures look as if they had been learned from; nothing where nothing speaks for it.

    A store keeps nothing of the pictures that it learned from, not even digests, so this cannot be known for sure: it
    looks at what the folder and those beside it are called, and at whether a file is the same in both. Pictures that
    were copied elsewhere, or changed a little, are not found. Nor can it be seen from what is drawn: pictures as near
    to the held-out ones as those that were learned from are also drawn where held-out ones are few or much alike.
    """
    here = folder.absolute()
    if here.name.lower() in LESSONS:
        return f"its held-out pictures lie in a folder called {here.name!r}: what was learned from measures nothing"
    beside = [path for name in LESSONS if (path := here.parent / name).is_dir()]
    sizes: dict[int, list[Path]] = {}
    for path in (each for other in beside for each in other.iterdir() if each.is_file()):
        sizes.setdefault(path.stat().st_size, []).append(path)
    ours = [path for path in here.iterdir() if path.is_file() and not path.name.startswith(".")]
    same = [path for path in ours if any(_equal(path, other) for other in sizes.get(path.stat().st_size, ()))]
    if not same:
        return ""
    return (
        f"{len(same)} of {len(ours)} held-out pictures, {same[0].name} among them, are also in {beside[0]}: what was "
        "learned from measures nothing"
    )


def _equal(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()
