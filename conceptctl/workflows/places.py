"""Places that files are to be written to: whether they can be is found out before anything expensive."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from conceptctl.errors import UsageError

_HINT = "name a place that files can be written to"
_LONGEST_NAME = 100
"""Characters: no file that this program chooses a name for has a longer one."""
_NOT_THE_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that another place would not help against."""


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Make a folder with those above it, and try out that files can be written into it.

    Permissions, read-only disks, names that are too long, links in a circle: only the kernel knows all that can be
    wrong with a place, so it is asked by writing a file. What was made is taken away again where nothing came into it.

    Args:
        folder: The folder; one that is there already is fine.

    Raises:
        UsageError: Nothing can be written there; nothing was changed.
    """
    made: list[Path] = []
    try:
        try:
            _make(folder, made)
            _write_once(folder)
        except OSError as error:
            if error.errno in _NOT_THE_PLACE:
                raise
            raise UsageError(f"cannot write into {shortened(folder)}: {error.strerror}", hint=_HINT) from error
        yield
    finally:
        for each in reversed(made):
            with suppress(OSError):
                each.rmdir()


def check_writable(folder: Path) -> None:
    """Check that files can be written into a folder, which may be made; nothing is left of it.

    Raises:
        UsageError: They cannot.
    """
    with writable(folder):
        pass


def _make(folder: Path, made: list[Path]) -> None:
    """Make a folder where there is none, and note what was made, parents first."""
    missing = []
    for each in (folder, *folder.parents):
        try:
            each.stat()
            break
        except FileNotFoundError:
            missing.append(each)
    for each in reversed(missing):
        # Somebody else may have made it meanwhile.
        each.mkdir(exist_ok=True)
        made.append(each)


def _write_once(folder: Path) -> None:
    trial = folder / f".{os.urandom(_LONGEST_NAME // 2).hex()}"
    os.close(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    trial.unlink()


def check_name(path: Path) -> None:
    """Check that a file may be called so.

    Raises:
        UsageError: It may not.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"cannot write {shortened(path)}: {error.strerror}", hint=_HINT) from error


def shortened(text: Path | str, longest: int = 200) -> str:
    """A path or a text for people: the middle of one that is very long is left out."""
    text = str(text)
    return text if len(text) <= longest else f"{text[: longest // 2]}...{text[-longest // 2 :]}"
