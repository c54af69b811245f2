"""What stands in a folder: pictures, the captions that go with them, and what phones and programs leave beside."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from conceptctl.errors import PicturesRefused
from conceptctl.images import captions, files

MOST_FILES = 1000
"""A concept is learned from a handful: a larger folder is another one than was meant."""

NAME_A_FOLDER = "name a folder that holds the pictures of one concept"

_PICTURES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".bmp", ".dib", ".gif",
    ".tif", ".tiff",
}  # fmt: skip
_JUNK = {
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r", "__macosx", "@eadir",
    "$recycle.bin", "system volume information",
}  # fmt: skip
_STREAM = re.compile(r"zone\.identifier(:\$data)?$", re.IGNORECASE)
"""Where a file came from, as Windows keeps it; copied to another system it is a file beside it."""
_SIDECARS = {
    # What phones and photo programs write: edits, ratings, places, thumbnails of videos.
    ".aae", ".xmp", ".thm", ".lrv", ".pp3", ".dop", ".cos", ".cop", ".on1", ".arp", ".rmd", ".vrd", ".json",
    # What trainers write and read: latents, lists, settings.
    ".npz", ".npy", ".pt", ".safetensors", ".jsonl", ".csv", ".parquet", ".toml", ".yaml", ".yml",
    # What lies about.
    ".ini", ".db", ".lnk", ".url", ".webloc", ".log", ".md",
}  # fmt: skip
"""Files that are no pictures by their names and claim to be none."""
_OF_A_PICTURE = {
    ".mov", ".mp4", ".m4v", ".3gp", ".mp", ".mv", ".wav", ".m4a",
    ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw",
}  # fmt: skip
"""The moving half of a live photo, a spoken note, a camera's raw file: the same photograph once more where a picture of
that name is beside them, and judged like any other file where none is."""
_LISTS = re.compile(r"(metadata|captions?|meta_.*)\.(jsonl?|csv|parquet)$", re.IGNORECASE)
"""Where diffusers' and other trainers' captions stand in one file."""
_MASKS = ("-masklabel", "-condlabel")
"""What OneTrainer keeps beside `photo.jpg`: `photo-masklabel.png`."""


@dataclass
class Listing:
    """A folder's files, before any picture is opened."""

    candidates: list[Path] = field(default_factory=list)
    """What is judged as a picture."""
    captions: dict[Path, list[Path]] = field(default_factory=dict)
    """The texts that go with a candidate."""
    folders: list[str] = field(default_factory=list)
    ignored: int = 0
    """Hidden files, and what is no picture and claims to be none."""
    notes: list[str] = field(default_factory=list)


def list_folder(folder: Path, *, follow: bool, most: int | None = MOST_FILES) -> Listing:
    """Tell a folder's files apart by their names; what has no telling one is looked into.

    Args:
        folder: Of a user's.
        follow: Read what symbolic links point to.
        most: Files that are looked at; None for any number.

    Raises:
        PicturesRefused: It is not there, cannot be read, or holds far too many files.
    """
    listing = Listing()
    texts: list[Path] = []
    beside: list[Path] = []
    for path in files.entries(folder, NAME_A_FOLDER):
        suffix = path.suffix.lower()
        if is_junk(path.name):
            listing.ignored += 1
        elif suffix not in _PICTURES and files.is_folder(path, follow=follow):
            listing.folders.append(files.printable(path.name))
        elif suffix in captions.SUFFIXES:
            texts.append(path)
        elif suffix in _SIDECARS | _OF_A_PICTURE:
            beside.append(path)
        else:
            listing.candidates.append(path)
    _sort_out(listing, beside)
    if most is not None and (many := max(len(listing.candidates), len(texts))) > most:
        shown = files.printable(str(folder))
        raise PicturesRefused(f"{many} files in {shown}: at most {most} are looked at", hint=NAME_A_FOLDER)
    _pair(listing, texts, follow=follow)
    listing.candidates.sort()
    return listing


def is_junk(name: str) -> bool:
    """Tell by its name what is hidden, or what a system leaves beside pictures."""
    # Streams of other programs are called after their file too: `photo.jpg:com.dropbox.attrs`.
    owner, stream, _ = name.partition(":")
    a_stream = bool(stream) and Path(owner).suffix.lower() in _PICTURES | set(captions.SUFFIXES)
    return name.startswith(".") or name.lower() in _JUNK or bool(_STREAM.search(name)) or a_stream


def _sort_out(listing: Listing, beside: list[Path]) -> None:
    """Leave out what is beside pictures, and say what of it a user may take for something that is read."""
    stems = {_same(path.stem) for path in listing.candidates if path.suffix.lower() in _PICTURES}
    masks = [path for path in listing.candidates if _is_mask(_same(path.stem), stems)]
    listing.candidates = [path for path in listing.candidates if not _is_mask(_same(path.stem), stems)]
    left_out: list[Path] = []
    for path in beside:
        # `PXL_1.MP` moves, and `PXL_1.MP.jpg` is its photograph.
        if path.suffix.lower() in _SIDECARS or {_same(path.stem), _same(path.name)} & stems:
            left_out.append(path)
        else:
            listing.candidates.append(path)
    listing.ignored += len(left_out) + len(masks)
    if left_out:
        kinds = ", ".join(sorted({path.suffix.lower() for path in left_out}))
        listing.notes.append(f"beside the pictures and not read: {len(left_out)} of {kinds}")
    if masks:
        listing.notes.append(f"masks are not used: {named(masks)}")
    if lists := [path for path in left_out if _LISTS.fullmatch(path.name)]:
        listing.notes.append(f"captions in one file are not read: {named(lists)}; photo.jpg has its own in photo.txt")


def _is_mask(stem: str, stems: set[str]) -> bool:
    return any(stem.endswith(end) and stem.removesuffix(end) in stems for end in _MASKS)


def _pair(listing: Listing, texts: list[Path], *, follow: bool) -> None:
    """Give each text to the pictures of its name: `photo.txt` or `photo.jpg.txt` to `photo.jpg`."""
    loose: list[Path] = []
    for path in list(listing.candidates):
        # A README needs no suffix to be one.
        if path.suffix.lower() not in _PICTURES and files.is_plain_text(path, follow=follow):
            listing.candidates.remove(path)
            loose.append(path)
    exact: dict[str, list[Path]] = {}
    alike: dict[str, list[Path]] = {}
    for path in listing.candidates:
        for name in {path.name, path.stem}:
            exact.setdefault(name, []).append(path)
            alike.setdefault(_same(name), []).append(path)
    found: list[Path] = []
    for text in texts:
        of = exact.get(text.stem) or alike.get(_same(text.stem)) or []
        for picture in of:
            listing.captions.setdefault(picture, []).append(text)
        if not of:
            (found if files.is_picture(text, follow=follow) else loose).append(text)
    listing.candidates += found
    listing.ignored += len(loose)
    if loose:
        listing.notes.append(f"no picture has the name of a text, so it is not read: {named(sorted(loose))}")


def _same(name: str) -> str:
    """A name as systems compare it that take `É.JPG` for `é.jpg`, however its accents are written."""
    return unicodedata.normalize("NFC", name).casefold()


def named(paths: Iterable[Path], most: int = 3) -> str:
    """The names of some files, and how many more there are."""
    names = [files.printable(path.name) for path in paths]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
