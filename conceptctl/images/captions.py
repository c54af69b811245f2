"""Captions beside pictures: `photo.txt` says what `photo.jpg` shows, with `{token}` for the concept."""

import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from conceptctl.diffusion.prompts import names_in
from conceptctl.errors import NotFound, PicturesRefused
from conceptctl.images import files

SUFFIXES = (".txt", ".caption")
"""`photo.txt` is what most trainers write and read, `photo.caption` what kohya's scripts look for by themselves."""
PLACE = "{token}"
"""Where the concept's own token goes; nothing else in braces means anything."""
_ALONE = re.compile(rf"(?<![\w*-]){re.escape(PLACE)}(?![\w-])")
LONGEST = 4096
"""Bytes: no base reads more than a small part of it."""


def read_caption(
    paths: Sequence[Path], concepts: Collection[str], judge: Callable[[str], str], *, follow: bool
) -> tuple[str, str]:
    """Return a picture's caption as one line, with `{token}` in it, and what is to be noted of it.

    One without `{token}` is refused rather than used or completed: the concept would be bound to nothing, and where
    its name belongs in the sentence only the user knows. Neither may it speak of a concept that is not there: what the
    base makes of such a word would be learned as if it meant something. Nor is one of two taken that say different
    things: which of them is the right one only the user knows.

    Args:
        paths: The texts that go with the picture.
        concepts: Names of the concepts that it may speak of.
        judge: What else is asked of a caption; returns a note or "", and raises `PicturesRefused` with a reason.
        follow: Read what a symbolic link points to.

    Raises:
        PicturesRefused: It cannot be read, or cannot be a caption; the message is the reason alone.
    """
    said: dict[str, Path] = {}
    for path in paths:
        said.setdefault(_about(path, partial(_line_of, path, follow=follow)), path)
    if len(said) > 1:
        names = " and ".join(files.printable(path.name) for path in said.values())
        raise PicturesRefused(f"it has {len(said)} captions that differ, {names}: keep one of them")
    ((caption, path),) = said.items()

    def judged() -> str:
        _check(caption, concepts)
        return judge(caption)

    note = _about(path, judged)
    return caption, f"its caption {note}" if note else ""


def _about(path: Path, act: Callable[[], str]) -> str:
    """Say of every refusal which text it is about."""
    name = files.printable(path.name)
    try:
        return act()
    except PicturesRefused as refusal:
        raise PicturesRefused(f"its caption {name}: {refusal}") from None
    except OSError as error:
        raise PicturesRefused(f"its caption {name}: cannot be read: {error.strerror}") from error


def _line_of(path: Path, *, follow: bool) -> str:
    files.check_regular(path, follow=follow)
    with files.open_regular(path, follow=follow) as file:
        raw = file.read(LONGEST + 1)
    if len(raw) > LONGEST:
        raise PicturesRefused(f"longer than {LONGEST} bytes")
    try:
        # The signature that some editors put in front is no part of the text.
        caption = " ".join(raw.decode("utf-8-sig").split())
    except UnicodeDecodeError:
        raise PicturesRefused("not UTF-8 text") from None
    if any(unicodedata.category(letter) == "Cc" for letter in caption):
        raise PicturesRefused("has control characters")
    return caption


def _check(caption: str, concepts: Collection[str]) -> None:
    if PLACE not in caption:
        raise PicturesRefused(f"has no {PLACE}, as in 'a photo of {PLACE} on a beach'")
    if caption.count(PLACE) != len(_ALONE.findall(caption)) or PLACE + PLACE in caption:
        raise PicturesRefused(f"{PLACE} must be a word of its own, with no letter beside it")
    try:
        names_in(caption, concepts)
    except NotFound as error:
        raise PicturesRefused(str(error)) from None
