"""Many prompts from one file, and which of their pictures are there already."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from conceptctl.errors import NotFound, UsageError

MOST_BYTES = 4 << 20
STDIN = "-"
_WHOEVER_DREW = ("program",)
"""What of a recipe makes no other picture."""


@dataclass(frozen=True)
class Line:
    """A prompt, and where it stands."""

    prompt: str
    place: str
    """`prompts.txt:3`."""


def read_prompts(path: str) -> tuple[Line, ...]:
    """Read prompts, one a line: UTF-8; empty lines and those that begin with `#` are passed over.

    Args:
        path: A file, or `-` for standard input.

    Raises:
        NotFound: There is no such file.
        UsageError: It cannot be read, is no UTF-8 text, is too long, or has no prompt.
    """
    raw, name = _read(path), "standard input" if path == STDIN else path
    if len(raw) > MOST_BYTES:
        raise UsageError(f"{name}: longer than {MOST_BYTES >> 20} MB", hint="split the file")
    found = []
    # Not `splitlines`, which breaks lines at characters that prompts may hold.
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise UsageError(f"{name}:{number}: not UTF-8 text", hint="save the file as UTF-8") from None
        if "\0" in text:
            raise UsageError(f"{name}:{number}: not a text: it has a zero byte", hint="one prompt a line, in UTF-8")
        if text and not text.startswith("#"):
            found.append(Line(text, f"{name}:{number}"))
    if not found:
        raise UsageError(f"{name}: it has no prompt", hint="one prompt a line; lines that begin with # are notes")
    return tuple(found)


def _read(path: str) -> bytes:
    try:
        if path == STDIN:
            if sys.stdin is None:
                raise UsageError("standard input is closed", hint="--prompt-file FILE: one prompt a line")
            return sys.stdin.buffer.read(MOST_BYTES + 1)
        with Path(path).open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}", hint="--prompt-file FILE: one prompt a line") from None
    except (OSError, ValueError) as error:
        # A path with a zero byte is a ValueError.
        raise UsageError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}",
            hint="--prompt-file FILE: one prompt a line",
        ) from error


def drawn_already(path: Path, recipe: Mapping[str, object]) -> Path | None:
    """Find a picture that was drawn by a recipe.

    Args:
        path: Where it would be written, were nothing there; `save_new` counts up from it.
        recipe: All that makes the picture.

    Returns:
        The file that says so of itself, or None.
    """
    candidate, number = path, 1
    wanted = _compared(recipe)
    while candidate.is_file():
        if _recipe_in(candidate) == wanted:
            return candidate
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return None


def _recipe_in(path: Path) -> dict[str, object] | None:
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            # A file that was cut off has its text and no picture.
            picture.load()
            found = json.loads(picture.info.get("conceptctl", "null"))
    except (OSError, ValueError, SyntaxError, RecursionError, Image.DecompressionBombError):
        return None
    return _compared(found) if isinstance(found, dict) else None


def _compared(recipe: Mapping[str, object]) -> dict[str, object]:
    """A recipe as JSON gives it back, without what makes no other picture."""
    plain: dict[str, object] = json.loads(json.dumps({**recipe}))
    return {key: value for key, value in plain.items() if key not in _WHOEVER_DREW}
