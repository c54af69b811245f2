"""The picture gate: every file in a folder is judged before anything is learned from one of them."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from conceptctl.errors import PicturesRefused
from conceptctl.images import captions, files
from conceptctl.images.buckets import Size
from conceptctl.images.decoder import Decoder, Limits
from conceptctl.images.listing import MOST_FILES, NAME_A_FOLDER, Listing, list_folder, named
from conceptctl.images.pixels import Cropped, Wanted
from conceptctl.progress import Progress, ignore
from conceptctl.wording import count


@dataclass(frozen=True)
class Rules:
    """What a base and a command ask of pictures."""

    side: int
    """Side of the square that is learned from, in pixels."""
    min_side: int = 256
    """Shorter side a picture must have."""
    fewest: int = 1
    """Different pictures there must be."""
    most: int | None = MOST_FILES
    """Files that are looked at; None for any number."""
    skip_bad: bool = False
    """Go on without the pictures that are refused."""
    first_frame: bool = False
    """Take the first frame of an animation."""
    follow_symlinks: bool = False
    """Read what symbolic links point to."""
    step: int = 0
    """Sides of what is learned from, where a picture is no square, are multiples of it; 0 where all become squares."""
    longest: int | None = None
    """The longest side of what is learned from; None for any."""
    concepts: frozenset[str] = frozenset()
    """Names of the concepts that captions may speak of, the one that is learned included."""
    captioned: bool = True
    """Read the texts beside pictures; they are passed over otherwise."""
    judge_caption: Callable[[str], str] = lambda caption: ""
    """What else a base asks of a caption with `{token}` in it: returns a note or "", and raises `PicturesRefused`."""


@dataclass(frozen=True)
class Picture:
    """A picture that may be learned from. It lives in memory only."""

    path: Path
    size: Size
    """Width and height of the whole upright picture."""
    notes: tuple[str, ...]
    """What was done to it beyond cropping its middle and scaling it."""
    caption: str | None
    """One line with `{token}` in it, where there is a text beside the picture."""
    bucket: Size
    """Width and height of what is learned from, in pixels."""
    pixels: bytes = field(repr=False)
    """(height, width, 3), sRGB, 8 bits."""

    def image(self) -> Image.Image:
        """Return what is learned from as an RGB picture."""
        return Image.frombytes("RGB", self.bucket, self.pixels)


@dataclass(frozen=True)
class Refusal:
    """A file that must not be learned from."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{_shown(self.path)}: {self.reason}"


@dataclass(frozen=True)
class Checked:
    """What a folder holds."""

    pictures: tuple[Picture, ...]
    """All different, by name."""
    refusals: tuple[Refusal, ...]
    """What was skipped."""
    ignored: int
    """Hidden files, and what phones, systems and other programs leave beside pictures."""
    notes: tuple[str, ...]
    """What a user would want to know about the folder as a whole."""
    photographic: bool
    """Most of the pictures look like photographs, by the number of their colours."""


def check_folder(
    folder: Path,
    rules: Rules,
    *,
    limits: Limits | None = None,
    decoder: Decoder | None = None,
    progress: Progress = ignore,
) -> Checked:
    """Judge every file in a folder, and return the pictures at the sizes that are learned from.

    What is learned from is the middle of a picture. Nothing is written; files are decoded in a process of their own.

    Args:
        folder: Where the pictures are; folders in it are not looked into.
        rules: What is asked of the pictures.
        limits: What decoding one picture may take.
        decoder: What decodes, where several folders are judged with one.
        progress: Called with the number of files judged and of all files.

    Raises:
        PicturesRefused: There is no such folder, too few different pictures in it, or something that is no usable
            picture; the message names every such file with its reason.
        DeviceFailed: The process that decodes could not be started.
    """
    listing = list_folder(folder, follow=rules.follow_symlinks, most=rules.most)
    if not listing.candidates:
        inside = f"; it holds folders: {', '.join(listing.folders[:3])}" if listing.folders else ""
        raise PicturesRefused(f"no picture in {_shown(folder)}{inside}", hint=NAME_A_FOLDER)
    with nullcontext(decoder) if decoder else Decoder(limits) as decodes:
        found, refusals = _judge(listing, rules, decodes, progress)
    distinct, notes = _distinct(found)
    lines = [f"\n  {refusal}" for refusal in refusals]
    if refusals and not rules.skip_bad:
        total = len(found) + len(refusals)
        raise PicturesRefused(f"{len(refusals)} of {total} files in {_shown(folder)} refused:" + "".join(lines))
    if len(distinct) < rules.fewest:
        lines += [f"\n  {note}" for note in notes]
        have = f"{count(len(distinct), 'different picture')} in {_shown(folder)}, at least {rules.fewest} are needed"
        if not distinct:
            have = f"no picture in {_shown(folder)} is left"
        hint = "add pictures of the same subject, each a little different"
        raise PicturesRefused(have + (":" if lines else "") + "".join(lines), hint=hint)
    notes += _on_pictures(distinct)
    if listing.folders:
        notes.append(f"not looked into: {', '.join(listing.folders)}")
    notes += listing.notes if rules.captioned else []
    photographs = sum(cropped.photographic for _, cropped in found)
    return Checked(distinct, tuple(refusals), listing.ignored, tuple(notes), 2 * photographs > len(found))


def _judge(
    listing: Listing, rules: Rules, decoder: Decoder, progress: Progress
) -> tuple[list[tuple[Picture, Cropped]], list[Refusal]]:
    found: list[tuple[Picture, Cropped]] = []
    refused: list[Refusal] = []
    for done, path in enumerate(listing.candidates, start=1):
        try:
            found.append(_picture(path, listing.captions.get(path, []), rules, decoder))
        except PicturesRefused as refusal:
            refused.append(Refusal(path, str(refusal)))
        progress(done, len(listing.candidates))
    return found, refused


def _picture(path: Path, texts: list[Path], rules: Rules, decoder: Decoder) -> tuple[Picture, Cropped]:
    files.check_regular(path, follow=rules.follow_symlinks)
    wanted = Wanted(rules.side, rules.min_side, rules.first_frame, rules.step, rules.longest)
    found = decoder.cropped(path, wanted, follow=rules.follow_symlinks)
    caption, notes = None, found.notes
    if texts and rules.captioned:
        follow = rules.follow_symlinks
        caption, note = captions.read_caption(texts, rules.concepts, rules.judge_caption, follow=follow)
        notes = (*notes, note) if note else notes
    return Picture(path, found.size, notes, caption, wanted.bucket(found.size), found.pixels), found


def _distinct(found: list[tuple[Picture, Cropped]]) -> tuple[tuple[Picture, ...], list[str]]:
    """Return one of each set of equal pictures, one with a caption where there is one, and a note for each other."""
    kept: dict[str, Picture] = {}
    for picture, cropped in found:
        known = kept.setdefault(cropped.digest, picture)
        if known.caption is None and picture.caption is not None:
            kept[cropped.digest] = picture
    notes: list[str] = []
    for picture, cropped in found:
        if (known := kept[cropped.digest]) is not picture:
            same = f"the same pixels as {files.printable(known.path.name)}, counted once"
            unused = ", its caption not used" if picture.caption not in (None, known.caption) else ""
            notes.append(f"{_shown(picture.path)}: {same}{unused}")
    return tuple(kept.values()), notes


def _on_pictures(pictures: tuple[Picture, ...]) -> list[str]:
    """Say each thing that was done to pictures once, with the pictures."""
    noted: dict[str, list[Path]] = {}
    for picture in pictures:
        for note in picture.notes:
            noted.setdefault(note, []).append(picture.path)
    return [f"{named(paths)}: {note}" for note, paths in noted.items()]


def _shown(path: Path) -> str:
    return files.printable(str(path))
