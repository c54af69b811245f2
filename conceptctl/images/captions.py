"""Captions beside pictures: `photo.txt` says what `photo.jpg` shows, with `{token}` for the concept."""

import re
import unicodedata
from collections.abc import Collection
from pathlib import Path

from conceptctl.diffusion.prompts import names_in
from conceptctl.errors import NotFound, PicturesRefused
from conceptctl.images import files

SUFFIX = ".txt"
PLACE = "{token}"
"""Where the concept's own token goes; nothing else in braces means anything."""

_ALONE = re.compile(rf"(?<![\w*-]){re.escape(PLACE)}(?![\w-])")
LONGEST = 4096
"""Bytes: no base reads more than a small part of it."""


def read_caption(path: Path, concepts: Collection[str], *, follow: bool) -> str:
    """Return a caption as one line, with `{token}` in it.

    One without `{token}` is refused rather than used or completed: the concept would be bound to nothing, and where
    its name belongs in the sentence only the user knows. Neither may it speak of a concept that is not there: what the
    base makes of such a word would be learned as if it meant something.

    Args:
        path: The text.
        concepts: Names of the concepts that it may speak of.
        follow: Read what a symbolic link points to.

    Raises:
        PicturesRefused: It cannot be read, or cannot be a caption; the message is the reason alone.
    """
    try:
        files.check_regular(path, follow=follow)
        with files.open_regular(path, follow=follow) as file:
            raw = file.read(LONGEST + 1)
    except PicturesRefused as refusal:
        raise PicturesRefused(f"its caption {path.name}: {refusal}") from None
    except OSError as error:
        raise PicturesRefused(f"its caption {path.name}: cannot be read: {error.strerror}") from error
    if len(raw) > LONGEST:
        raise PicturesRefused(f"its caption {path.name}: longer than {LONGEST} bytes")
    try:
        # The signature that some editors put in front is no part of the text.
        caption = " ".join(raw.decode("utf-8-sig").split())
    except UnicodeDecodeError:
        raise PicturesRefused(f"its caption {path.name}: not UTF-8 text") from None
    if any(unicodedata.category(letter) == "Cc" for letter in caption):
        raise PicturesRefused(f"its caption {path.name}: has control characters")
    if PLACE not in caption:
        raise PicturesRefused(f"its caption {path.name}: has no {PLACE}, as in 'a photo of {PLACE} on a beach'")
    if caption.count(PLACE) != len(_ALONE.findall(caption)):
        raise PicturesRefused(f"its caption {path.name}: {PLACE} must be a word of its own, with no letter beside it")
    try:
        names_in(caption, concepts)
    except NotFound as error:
        raise PicturesRefused(f"its caption {path.name}: {error}") from None
    return caption
