"""What a file is: a regular one, and a picture by its first bytes; its name counts for nothing."""

import errno
import os
import re
import stat
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from conceptctl.errors import PicturesRefused

HEAD = 4096
"""Bytes that are enough to tell what a file is."""

_RAW = b"II*\0\x10\0\0\0CR"
"""What a Canon raw file begins with, and otherwise a TIFF as well."""
_PICTURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_OTHERS = (
    (b"%PDF", "a PDF document"),
    (b"%!PS", "an EPS or PostScript drawing"),
    (b"\xc5\xd0\xd3\xc6", "an EPS or PostScript drawing"),
    (_RAW, "a camera's raw file"),
    (b"8BPS", "a Photoshop document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a compressed archive"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (b"\xffO\xffQ", "a JPEG 2000 picture"),
    (b"\xff\xfe", "text"),
    (b"\xfe\xff", "text"),
)
_TEXTS = (
    (b"version https://git-lfs", "a Git LFS pointer instead of the picture: git lfs pull fetches it"),
    (b"<svg", "an SVG drawing"),
    (b"<html", "an HTML page"),
    (b"<!doctype html", "an HTML page"),
)
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
"""What phones write; the last two stand in AVIF pictures too, beside AVIF's own."""
_AVIF_BRANDS = {b"avif", b"avis"}
_NOT_IN_TEXT = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
_WANTED = "JPEG, PNG, WebP, AVIF, HEIC, BMP, GIF and TIFF are read"

_SPECIAL = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def printable(name: str) -> str:
    """Return a name that a terminal prints and does not obey."""
    return name if name.isprintable() else ascii(name)


def entries(folder: Path, hint: str) -> list[Path]:
    """List what a folder of a user's holds, by name.

    Raises:
        PicturesRefused: It is not there, no folder, or cannot be read; with the hint.
    """
    shown = printable(str(folder))
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        raise PicturesRefused(f"no folder {shown}", hint=hint) from None
    except NotADirectoryError:
        raise PicturesRefused(f"{shown} is not a folder", hint=hint) from None
    except OSError as error:
        raise PicturesRefused(f"{shown} cannot be read: {error.strerror}", hint=hint) from error


def is_folder(path: Path, *, follow: bool) -> bool:
    """Tell whether a folder stands there; what cannot be looked at is none."""
    try:
        return stat.S_ISDIR((path.stat() if follow else path.lstat()).st_mode)
    except OSError:
        return False


def check_regular(path: Path, *, follow: bool) -> None:
    """Refuse what is not a regular file, without opening it.

    Args:
        path: What stands in the folder.
        follow: A symbolic link stands for what it points to.

    Raises:
        PicturesRefused: It is something else, or it is not there.
    """
    try:
        mode = (path.stat() if follow else path.lstat()).st_mode
    except OSError as error:
        raise _unreadable(error) from error
    _check_mode(mode)


def open_regular(path: Path, *, follow: bool) -> BinaryIO:
    """Open a regular file for reading.

    What the name stands for may have changed since it was looked at, so the opened file is looked at again, and
    opening does not wait for the other end of a pipe.

    Raises:
        PicturesRefused: It cannot be opened, or is not a regular file.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise _unreadable(error) from error
    file = os.fdopen(descriptor, "rb")
    try:
        _check_mode(os.fstat(descriptor).st_mode)
    except PicturesRefused:
        file.close()
        raise
    return file


def picture_format(head: bytes) -> str:
    """Return Pillow's name of the format that a file's first bytes announce.

    Raises:
        PicturesRefused: They announce something that is not read; the message says what.
    """
    if not head:
        raise PicturesRefused("an empty file")
    for start, name in _PICTURES:
        if head.startswith(start) and not head.startswith(_RAW):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return _by_brand(head)
    what = _other(head)
    # Two letters announce a BMP, and many a text begins with them too.
    if what is None and head.startswith(b"BM"):
        return "BMP"
    raise PicturesRefused(f"not a picture but {what}" if what else f"not a picture: {_WANTED}")


def check_picture(path: Path, *, follow: bool) -> None:
    """Refuse what is not a regular file whose first bytes announce a picture that is read.

    Raises:
        PicturesRefused: It is something else; the message says what.
    """
    picture_format(_head(path, follow=follow))


def is_picture(path: Path, *, follow: bool) -> bool:
    """Tell whether a file's first bytes announce a picture; what cannot be read is none."""
    try:
        check_picture(path, follow=follow)
    except PicturesRefused:
        return False
    return True


def is_plain_text(path: Path, *, follow: bool) -> bool:
    """Tell whether a file holds a text, and neither a page, a drawing nor what stands for a file that is elsewhere."""
    try:
        head = _head(path, follow=follow)
    except PicturesRefused:
        return False
    return bool(head) and _other(head) == "text"


def _head(path: Path, *, follow: bool) -> bytes:
    check_regular(path, follow=follow)
    try:
        with open_regular(path, follow=follow) as file:
            return file.read(HEAD)
    except OSError as error:
        raise _unreadable(error) from error


def _check_mode(mode: int) -> None:
    if stat.S_ISLNK(mode):
        raise PicturesRefused("not a regular file but a symbolic link; --follow-symlinks reads what it points to")
    for is_kind, name in _SPECIAL:
        if is_kind(mode):
            raise PicturesRefused(f"not a regular file but {name}")


def _unreadable(error: OSError) -> PicturesRefused:
    if error.errno == errno.ELOOP:
        return PicturesRefused("not a regular file but a symbolic link")
    return PicturesRefused(f"cannot be read: {error.strerror}")


def _other(head: bytes) -> str | None:
    for start, name in _OTHERS:
        if head.startswith(start):
            return name
    if _NOT_IN_TEXT.search(head):
        return None
    text = head[:1024].lower()
    return next((name for mark, name in _TEXTS if mark in text), "text")


def _by_brand(head: bytes) -> str:
    """Tell the kinds of one container apart by the brands its first box lists.

    Raises:
        PicturesRefused: It is no picture, or one that nothing here decodes.
    """
    box = head[8 : max(12, int.from_bytes(head[:4], "big"))]
    brands = {box[at : at + 4] for at in range(0, len(box), 4)}
    # Refusals name each file, so the step that helps stands beside it.
    if brands & _AVIF_BRANDS:
        if "AVIF" not in decoders():
            raise PicturesRefused("an AVIF picture, which this Pillow does not read: save it as JPEG or PNG")
        return "AVIF"
    if brands & _HEIC_BRANDS:
        if "HEIF" not in decoders():
            raise PicturesRefused("a HEIC picture: pip install 'conceptctl[heic]', or save it as JPEG or PNG")
        return "HEIF"
    raise PicturesRefused("not a picture but " + ("a camera's raw file" if b"crx " in brands else "a video"))


@cache
def decoders() -> frozenset[str]:
    """Make Pillow read HEIC where its library is installed.

    Returns:
        Which of the two formats that not every installation decodes can be read: Pillow's names.
    """
    from PIL import features

    found = {"AVIF"} if features.check("avif") else set()
    if find_spec("pillow_heif"):
        from pillow_heif import register_heif_opener

        register_heif_opener()
        found.add("HEIF")
    return frozenset(found)
