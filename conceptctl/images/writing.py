"""Writes pictures as files that say that a model made them, whole or not at all, and over nothing."""

from __future__ import annotations

import errno
import io
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from conceptctl.errors import UsageError
from conceptctl.images.png import XMP, made_by_a_model

KINDS: Mapping[str, str] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""What can be written, by the ending: kinds of file that keep the note that a model made the picture."""
_XMP_TAG = 700
"""Of TIFF (Adobe, XMP specification part 3)."""
_NOTES: Mapping[str, Callable[[PngInfo | None], dict[str, Any]]] = {
    "PNG": lambda info: {"pnginfo": info or made_by_a_model()},
    "JPEG": lambda info: {"xmp": XMP.encode(), "quality": 95, "subsampling": 0},
    "WEBP": lambda info: {"xmp": XMP.encode(), "lossless": True},
    "TIFF": lambda info: {"tiffinfo": {_XMP_TAG: XMP.encode()}, "compression": "tiff_deflate"},
}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
"""What file systems say that know no second name for a file."""


def check_kind(path: Path) -> None:
    """Refuse a name whose ending is no kind of picture that can be written with its note.

    Raises:
        UsageError: It is not, with those that are.
    """
    if path.suffix.lower() not in KINDS:
        what = f"{path.suffix!r} files cannot be written here" if path.suffix else "the name has no ending"
        raise UsageError(f"{path}: {what}", hint=f"{path.stem}.png, or another of: {' '.join(KINDS)}")


def encoded(picture: Image.Image, kind: str, *, noted: bool = True, info: PngInfo | None = None) -> bytes:
    """Return a picture as a file.

    Args:
        picture: RGB.
        kind: One of the values of `KINDS`.
        noted: Whether it says that a model made it.
        info: What a PNG file says, in the place of that alone.
    """
    stream = io.BytesIO()
    picture.save(stream, format=kind, **_NOTES[kind](info) if noted else {})
    return stream.getvalue()


def save_new(picture: Image.Image, path: Path, *, noted: bool = True, info: PngInfo | None = None) -> Path:
    """Write a picture where nothing is yet: at the path, or the first of `name-2`, `name-3`, ... that is free.

    Args:
        picture: RGB.
        path: Its ending decides the kind, one of `KINDS`.
        noted: Whether the file says that a model made it.
        info: What a PNG file says, in the place of that alone.

    Returns:
        Where it was written. Nothing is left of a file that could not be written to its end.

    Raises:
        OSError: It could not be written.
    """
    data = encoded(picture, KINDS[path.suffix.lower()], noted=noted, info=info)
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
        return _first_free(part, path, data)
    finally:
        part.unlink(missing_ok=True)


def _first_free(part: Path, path: Path, data: bytes) -> Path:
    candidate, number = path, 1
    while True:
        try:
            _give_name(part, candidate, data)
            return candidate
        except FileExistsError:
            # Somebody else may draw into the same folder.
            number += 1
            candidate = path.with_stem(f"{path.stem}-{number}")


def _give_name(part: Path, path: Path, data: bytes) -> None:
    """Give a whole file a name that is free: a rename would take the place of what is there."""
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with path.open("xb") as file:
            try:
                file.write(data)
            except OSError:
                path.unlink()
                raise
