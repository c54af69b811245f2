"""Pictures of classes, passed through the picture gate: nothing is learned or measured before all were judged."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conceptctl.errors import PicturesRefused, UsageError
from conceptctl.images import class_folders, files
from conceptctl.progress import Progress, ignore
from conceptctl.store import concept

if TYPE_CHECKING:
    import numpy as np

    from conceptctl.images.gate import Checked


@dataclass(frozen=True)
class Rules:
    """What is asked of pictures."""

    skip_bad: bool = False
    """Go on without those that are refused."""
    first_frame: bool = False
    """Take the first frame of animations."""
    follow_symlinks: bool = False
    """Read what symbolic links point to."""


USUAL = Rules()


@dataclass(frozen=True)
class Labelled:
    """Pictures with their classes. They live in memory only."""

    pixels: np.ndarray
    """(N, side, side, 3), sRGB, 8 bits."""
    labels: tuple[str, ...]
    """The class of each."""
    skipped: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many pictures there are of each class, in the classes' order."""
        return {name: self.labels.count(name) for name in dict.fromkeys(self.labels)}


def folders_of(folder: Path, part: str, *, follow: bool) -> dict[str, Path]:
    """Find the folders of classes, by the classes' names.

    Args:
        folder: With a folder for each class in it, or in `part` in it.
        part: `class_folders.TRAIN` or `class_folders.TEST`.
        follow: Read what symbolic links point to.

    Raises:
        PicturesRefused: It holds none.
        UsageError: A folder's name cannot be a class's.
    """
    found: dict[str, Path] = {}
    for name, path in class_folders.class_folders(folder, part, follow=follow).items():
        # What systems write differently that show it alike is one class.
        name = unicodedata.normalize("NFC", name)
        if not concept.is_class(name):
            raise UsageError(f"{name!a} cannot be a class: it is no line of text", hint="rename its folder")
        if name in found:
            raise UsageError(f"two folders are called {name}", hint="rename one of them")
        found[name] = path
    return found


def read_classes(
    folders: Mapping[str, Path], side: int, rules: Rules, *, fewest: int, progress: Progress = ignore
) -> Labelled:
    """Pass the pictures of classes through the gate, each to the middle square of it.

    Args:
        folders: By the class.
        side: Of the square, in pixels.
        rules: What is asked of them.
        fewest: Different pictures that each class must have.
        progress: Told of the classes whose pictures were judged.

    Raises:
        PicturesRefused: Something is no usable picture, or too few are; all of it is named.
        DeviceFailed: The process that decodes could not be started.
    """
    import numpy as np

    from conceptctl.images import gate
    from conceptctl.images.decoder import Decoder

    asked = gate.Rules(
        side,
        min_side=1,
        fewest=fewest,
        most=None,
        skip_bad=rules.skip_bad,
        first_frame=rules.first_frame,
        follow_symlinks=rules.follow_symlinks,
        captioned=False,
    )
    checked: dict[str, Checked] = {}
    refused: list[PicturesRefused] = []
    with Decoder() as decoder:
        for done, (name, folder) in enumerate(folders.items(), start=1):
            try:
                checked[name] = gate.check_folder(folder, asked, decoder=decoder)
            except PicturesRefused as refusal:
                refused.append(refusal)
            progress(done, len(folders))
    if refused:
        raise PicturesRefused("\n".join(map(str, refused)), hint=_hint(refused, fewest))
    pixels = [
        np.frombuffer(picture.pixels, np.uint8).reshape(side, side, 3)
        for each in checked.values()
        for picture in each.pictures
    ]
    return Labelled(
        np.stack(pixels),
        tuple(name for name, each in checked.items() for _ in each.pictures),
        tuple(str(refusal) for each in checked.values() for refusal in each.refusals),
        tuple(f"{name}: {note}" for name, each in checked.items() for note in each.notes),
    )


def _hint(refused: Sequence[PicturesRefused], fewest: int) -> str:
    """What helps where classes are refused: some for a picture in them, and some because there are too few."""
    bad = [each for each in refused if each.hint == each.default_hint]
    few = f"add pictures to a class, {fewest} or more in all, or take its folder out"
    return "; ".join([*([PicturesRefused.default_hint] if bad else []), *([few] if len(bad) < len(refused) else [])])


def read_pictures(
    paths: Sequence[Path], side: int, rules: Rules, *, progress: Progress = ignore
) -> tuple[list[Path], np.ndarray, tuple[str, ...]]:
    """Read pictures, and those that folders hold, each to the middle square of it.

    Args:
        paths: Pictures, and folders of them.
        side: Of the square, in pixels.
        rules: What is asked of them.
        progress: Told of all of them.

    Returns:
        The path of each, (N, side, side, 3), sRGB, 8 bits, and what was skipped.

    Raises:
        PicturesRefused: Something is no usable picture; all of it is named. Or none is left.
        DeviceFailed: The process that decodes could not be started.
    """
    import numpy as np

    every = [path for given in paths for path in _listed(given, rules)]
    kept: list[tuple[Path, np.ndarray]] = []
    refused: list[str] = []
    looking = class_folders.decoded(every, side, first_frame=rules.first_frame, follow=rules.follow_symlinks)
    for done, (path, found) in enumerate(looking, start=1):
        if isinstance(found, PicturesRefused):
            refused.append(f"{files.printable(str(path))}: {found}")
        else:
            kept.append((path, found))
        progress(done, len(every))
    if refused and (not rules.skip_bad or not kept):
        lines = "".join(f"\n  {line}" for line in refused)
        raise PicturesRefused(f"{len(refused)} of {len(every)} files refused:{lines}")
    return [path for path, _ in kept], np.stack([pixels for _, pixels in kept]), tuple(refused)


def _listed(given: Path, rules: Rules) -> list[Path]:
    """A picture itself, or those of a folder."""
    from conceptctl.images.listing import list_folder

    if not files.is_folder(given, follow=True):
        return [given]
    listing = list_folder(given, follow=rules.follow_symlinks, most=None)
    if not listing.candidates:
        inside = f"; it holds folders: {', '.join(listing.folders[:3])}" if listing.folders else ""
        raise PicturesRefused(
            f"no picture in {files.printable(str(given))}{inside}", hint="name a folder that holds pictures"
        )
    return listing.candidates
