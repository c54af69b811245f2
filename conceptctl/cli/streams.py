"""stdout and stderr as they are: closed, full, or of an encoding that has not every letter."""

import codecs
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

STDOUT = "stdout"
"""What an error of writing there is of, where a file would have its path."""


def prepare() -> None:
    """Make streams that take every text, before anything else happens.

    Who closes a stream wants nothing of it, and the next file that is opened must not get its number.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115, PTH123
    # stderr writes escapes anyway.
    codecs.register_error("conceptctl", _replaced)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="conceptctl")


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    """Write what an encoding lacks: bytes of file names as they are, letters as escapes."""
    assert isinstance(error, UnicodeEncodeError)
    part = error.object[error.start : error.start + 1]
    code = ord(part)
    written = bytes([code - 0xDC00]) if 0xDC80 <= code <= 0xDCFF else part.encode("ascii", "backslashreplace")
    return written, error.start + 1


def as_json(payload: Mapping[str, Any]) -> str:
    """Return one JSON object that stdout can take: with escapes where its encoding lacks a letter."""
    text = json.dumps(payload, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeError:
        return json.dumps(payload, allow_nan=False)
    return text


def write(lines: Iterable[str]) -> None:
    """Print lines on stdout, and find out at once whether they got there.

    Raises:
        OSError: They did not; its file name is `STDOUT`.
    """
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except OSError as error:
        error.filename = error.filename or STDOUT
        raise


def tell(text: str) -> None:
    """Print a line on stderr; one that cannot be printed is lost, because work must not end for want of a listener."""
    try:
        print("".join(map(_harmless, text)) if not text.isprintable() else text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        abandon(sys.stderr)


def _harmless(letter: str) -> str:
    """A letter, or the escape of one that a terminal would obey: names of files may hold anything."""
    return ascii(letter)[1:-1] if (letter < " " and letter not in "\n\t") or "\x7f" <= letter <= "\x9f" else letter


def abandon(stream: TextIO) -> None:
    """Let nothing more be written on a stream, nor tried to be at the program's end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
