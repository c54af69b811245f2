"""Files that are on the disk when a call returns.

A rename alone does not make bytes durable: the file is synced before it, and the folder after it. An fsync
that fails is never tried again, because the kernel may have dropped the pages it failed on.
"""

import errno
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from conceptctl.errors import NoSpace

CHUNK = 1 << 20
"""Bytes handed to the kernel and to the digest at a time."""

MARGIN = 1 << 20
"""Bytes that stay free beyond what a write needs: manifests, the index and its journal."""


def ensure_space(folder: Path, needed: int) -> None:
    """Make sure that a write fits before its first byte is written.

    Raises:
        NoSpace: It does not; names what is needed and what is free.
    """
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    if free < needed + MARGIN:
        raise NoSpace(f"{needed + MARGIN:,} bytes are needed and {free:,} are free at {folder}")


def scratch_path(folder: Path) -> Path:
    """Return a name in `folder` that nobody uses."""
    return folder / os.urandom(8).hex()


def write_file(path: Path, chunks: Iterable[bytes | memoryview], mode: int = 0o600) -> tuple[str, int]:
    """Write a new file, sync it, and return its sha256 and size."""
    digest = hashlib.sha256()
    size = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        for chunk in chunks:
            view = memoryview(chunk).cast("B")
            while view:
                written = os.write(descriptor, view[:CHUNK])
                digest.update(view[:written])
                size += written
                view = view[written:]
        sync_file(descriptor)
    finally:
        os.close(descriptor)
    return digest.hexdigest(), size


_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
"""What file systems say that know no second name for a file."""


def write_new(target: Path, chunks: Iterable[bytes | memoryview], size: int, mode: int = 0o644) -> None:
    """Write a whole file where none is; what a kill leaves has another name.

    Args:
        target: Where.
        chunks: Its bytes.
        size: How many there are.
        mode: Its permissions.

    Raises:
        FileExistsError: There is one; nothing is overwritten.
        NoSpace: It does not fit.
    """
    ensure_space(target.parent, size)
    # Short, whatever the file is called: the longest names leave no room for more.
    scratch = target.parent / f".{target.name[:40]}-{scratch_path(target.parent).name}"
    try:
        write_file(scratch, chunks, mode)
        try:
            # Unlike a rename, a link never replaces a file that appeared meanwhile.
            os.link(scratch, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
            scratch.rename(target)
        sync_folder(target.parent)
    finally:
        remove_file(scratch)


def sync_file(descriptor: int) -> None:
    """Make a file's bytes durable."""
    os.fsync(descriptor)


def replace_file(path: Path, data: bytes, tmp: Path, mode: int = 0o600) -> None:
    """Give a file new contents, all or nothing, by way of a file in `tmp`."""
    scratch = scratch_path(tmp)
    write_file(scratch, [data], mode)
    move(scratch, path)


def move(source: Path, target: Path) -> None:
    """Rename a file and make the new name durable."""
    os.rename(source, target)  # noqa: PTH104 - one spelling of every call that tests fail on purpose
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, mode: int = 0o700) -> None:
    """Make a folder and its name durable; one that is there already is fine."""
    try:
        os.mkdir(folder, mode)  # noqa: PTH102
    except FileExistsError:
        return
    sync_folder(folder.parent)


def remove_file(path: Path) -> None:
    """Remove a file if it is there. The name may come back after a power cut, which harms nothing."""
    try:
        os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        return


def remove_tree(folder: Path) -> None:
    """Remove everything in a folder and the folder itself."""
    empty_folder(folder)
    os.rmdir(folder)  # noqa: PTH106


def empty_folder(folder: Path) -> None:
    """Remove everything in a folder, in the order of names."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            remove_tree(entry)
        else:
            remove_file(entry)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
