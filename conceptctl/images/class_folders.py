"""Labelled pictures: a folder for each class, as ImageNet-R has them, and classes shuffled into tasks.

Either `train/CLASS` and `test/CLASS`, or `CLASS` alone, of which a share is set apart for testing. What the picture
gate passes over is passed over here (hidden files, what systems and programs leave beside pictures), and what is no
picture or a symbolic link is refused with its name.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from conceptctl.errors import PicturesRefused, UsageError
from conceptctl.images import files
from conceptctl.images.decoder import Decoder
from conceptctl.images.listing import is_junk, list_folder
from conceptctl.images.pixels import Wanted

if TYPE_CHECKING:
    import numpy as np

TRAIN, TEST = "train", "test"
TEST_SHARE = 0.2
"""Of a class's pictures where they have no folder of their own: ImageNet-R has no split, and DualPrompt's and
CODA-Prompt's keep 6,000 of its 30,000."""
MOST_NAMED = 10
"""Refused files that a message names."""
_LINK = "a symbolic link: only what stands in the folder itself is read"
_LINK_NOT_FOLLOWED = "a symbolic link; --follow-symlinks reads what it points to"
LAYOUT = "one folder for each class, or train/CLASS and test/CLASS, with pictures in it"


@dataclass(frozen=True)
class LabelledClass:
    """One class, by its folder's name."""

    name: str
    train: tuple[Path, ...]
    test: tuple[Path, ...]


def classes_in(folder: Path, *, split_seed: int = 0) -> tuple[LabelledClass, ...]:
    """List the classes of a folder of folders, by name; no picture is decoded.

    Args:
        folder: Of a user's, as the module describes it.
        split_seed: Which pictures are set apart where there is no `test`; the same for every order of tasks.

    Raises:
        PicturesRefused: It is not there, holds no two classes, a class lacks pictures, or something in it is no picture
            and no file that is passed over; the message names it.
    """
    parts = _folders(folder)
    if {TRAIN, TEST} & set(parts):
        if missing := {TRAIN, TEST} - set(parts):
            raise PicturesRefused(f"{_shown(folder)} has no folder {missing.pop()}", hint=LAYOUT)
        found = _matched(*(_class_folders(parts[part]) for part in (TRAIN, TEST)))
        classes = [LabelledClass(name, *(_pictures(each) for each in both)) for name, both in found]
    else:
        of = _class_folders(folder)
        classes = [_split(name, _pictures(path), path, split_seed) for name, path in of.items()]
    if len(classes) < 2:
        raise PicturesRefused(f"{_shown(folder)} holds one class: at least two are told apart", hint=LAYOUT)
    return tuple(classes)


def class_folders(folder: Path, part: str, *, follow: bool = False) -> dict[str, Path]:
    """List the folders of classes by the classes' names: those in `part` where there is one, else those in the folder.

    Args:
        folder: Of a user's.
        part: `TRAIN` or `TEST`.
        follow: Read what symbolic links point to.

    Raises:
        PicturesRefused: It is not there, holds no class or the other part alone, or a picture beside its classes.
    """
    parts = _folders(folder, follow=follow)
    if part in parts:
        return _class_folders(parts[part], follow=follow)
    if other := {TRAIN, TEST} & set(parts):
        raise PicturesRefused(f"{_shown(folder)} has a folder {other.pop()}, and no folder {part}", hint=LAYOUT)
    return _class_folders(folder, follow=follow)


def tasks_of(classes: Sequence[LabelledClass], count: int, seed: int) -> tuple[tuple[LabelledClass, ...], ...]:
    """Deal classes out into tasks, in the order of learning.

    The order is CODA-Prompt's for the same classes and seed (the `trainer` of its public code): the classes by name,
    shuffled by Python's own generator; seed 0 leaves them in the order of their names.

    Args:
        classes: By name.
        count: How many tasks. Where classes do not go evenly into them, the first ones have one more.
        seed: Which order.

    Raises:
        UsageError: There are more tasks than classes, or none.
    """
    if not 1 <= count <= len(classes):
        raise UsageError(f"{len(classes)} classes make 1 to {len(classes)} tasks, not {count}")
    order = sorted(classes, key=lambda each: each.name)
    if seed:
        random.Random(seed).shuffle(order)
    each, more = divmod(len(order), count)
    ends = [each * number + min(number, more) for number in range(count + 1)]
    return tuple(tuple(order[start:end]) for start, end in pairwise(ends))


def read_pictures(paths: Sequence[Path], side: int) -> np.ndarray:
    """Decode pictures to the middle square of each, in a process of their own, as the picture gate does.

    Args:
        paths: Of any number and size.
        side: Of the square, in pixels.

    Returns:
        (N, side, side, 3), sRGB, 8 bits.

    Raises:
        PicturesRefused: Something cannot be decoded; the message names every such file with its reason.
        DeviceFailed: The process that decodes could not be started.
    """
    import numpy as np

    read = np.empty((len(paths), side, side, 3), np.uint8)
    refused: list[str] = []
    for place, (path, found) in enumerate(decoded(paths, side, first_frame=True)):
        if isinstance(found, PicturesRefused):
            refused.append(f"{_shown(path)}: {found}")
        else:
            read[place] = found
    _refuse(refused, f"of {len(paths)} pictures")
    return read


def decoded(
    paths: Sequence[Path], side: int, *, first_frame: bool, follow: bool = False
) -> Iterator[tuple[Path, np.ndarray | PicturesRefused]]:
    """Decode pictures one by one to the middle square of each, in a process of their own.

    Args:
        paths: Of any number and size.
        side: Of the square, in pixels.
        first_frame: Take the first frame of an animation instead of refusing it.
        follow: Read what symbolic links point to.

    Yields:
        Each path with its pixels, (side, side, 3), sRGB, 8 bits, or why there are none.

    Raises:
        DeviceFailed: The process that decodes could not be started.
    """
    import numpy as np

    wanted = Wanted(side, min_side=1, first_frame=first_frame)
    with Decoder() as decoder:
        for path in paths:
            try:
                files.check_regular(path, follow=follow)
                pixels = decoder.cropped(path, wanted, follow=follow).pixels
            except PicturesRefused as refusal:
                yield path, refusal
            else:
                yield path, np.frombuffer(pixels, np.uint8).reshape(side, side, 3)


def _folders(folder: Path, *, follow: bool | None = None) -> dict[str, Path]:
    """The folders in a folder; a file that is nothing that may lie about beside them is refused.

    Args:
        folder: Of a user's.
        follow: Read what symbolic links point to; None where a user has no such choice.
    """
    found: dict[str, Path] = {}
    refused: list[str] = []
    for path in files.entries(folder, LAYOUT):
        if is_junk(path.name):
            continue
        if files.is_folder(path, follow=bool(follow)):
            found[path.name] = path
        elif reason := _out_of_place(path, follow):
            refused.append(f"{_shown(path)}: {reason}")
    _refuse(refused, f"in {_shown(folder)}", hint=LAYOUT)
    return found


def _out_of_place(path: Path, follow: bool | None) -> str:
    """Why what is no folder must not stand beside those of classes; "" where it may."""
    if path.is_symlink():
        if not follow:
            return _LINK if follow is None else _LINK_NOT_FOLLOWED
        try:
            files.check_regular(path, follow=True)
        except PicturesRefused as refusal:
            return f"a symbolic link: {refusal}"
    return "a picture that is in no class's folder" if files.is_picture(path, follow=bool(follow)) else ""


def _class_folders(folder: Path, *, follow: bool | None = None) -> dict[str, Path]:
    found = _folders(folder, follow=follow)
    if not found:
        raise PicturesRefused(f"no class in {_shown(folder)}", hint=LAYOUT)
    return found


def _matched(train: dict[str, Path], test: dict[str, Path]) -> list[tuple[str, tuple[Path, Path]]]:
    for part, ours, theirs in ((TEST, train, test), (TRAIN, test, train)):
        if missing := sorted(ours.keys() - theirs.keys()):
            raise PicturesRefused(f"{part} has no folder for the class {files.printable(missing[0])}", hint=LAYOUT)
    return [(name, (path, test[name])) for name, path in train.items()]


def _pictures(folder: Path) -> tuple[Path, ...]:
    """The pictures of one class, by name, each looked at by its first bytes."""
    listing = list_folder(folder, follow=False, most=None)
    if listing.folders:
        raise PicturesRefused(f"{_shown(folder)} is a class, and holds folders: {listing.folders[0]}", hint=LAYOUT)
    if not listing.candidates:
        raise PicturesRefused(f"no picture in {_shown(folder)}", hint=LAYOUT)
    refused: list[str] = []
    for path in listing.candidates:
        if path.is_symlink():
            refused.append(f"{_shown(path)}: {_LINK}")
            continue
        try:
            files.check_picture(path, follow=False)
        except PicturesRefused as refusal:
            refused.append(f"{_shown(path)}: {refusal}")
    _refuse(refused, f"of {len(listing.candidates)} files in {_shown(folder)}")
    return tuple(listing.candidates)


def _split(name: str, pictures: tuple[Path, ...], folder: Path, seed: int) -> LabelledClass:
    if len(pictures) < 2:
        raise PicturesRefused(f"one picture in {_shown(folder)}: one to learn and one to test need two", hint=LAYOUT)
    apart = max(1, round(TEST_SHARE * len(pictures)))
    test = set(random.Random(f"split:{seed}:{name}").sample(pictures, apart))
    return LabelledClass(
        name,
        tuple(path for path in pictures if path not in test),
        tuple(path for path in pictures if path in test),
    )


def _refuse(refused: list[str], where: str, *, hint: str = "fix or remove what is named above") -> None:
    if refused:
        more = [f"and {len(refused) - MOST_NAMED} more"] if len(refused) > MOST_NAMED else []
        lines = "".join(f"\n  {line}" for line in [*refused[:MOST_NAMED], *more])
        raise PicturesRefused(f"{len(refused)} {where} refused:{lines}", hint=hint)


def _shown(path: Path) -> str:
    return files.printable(str(path))
