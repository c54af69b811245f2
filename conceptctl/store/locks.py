"""Who may change a store, and who may take things out of it.

Two locks, both the kernel's, so that a killed process holds nothing: one for the single writer, and one that
readers of blobs share and whoever removes blobs takes alone.
"""

import fcntl
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from conceptctl.errors import Busy, DeviceFailed
from conceptctl.store.layout import Layout

PATIENCE = 0.5
"""Seconds a command waits for a lock when it was not told to wait."""

POLL = 0.01


@contextmanager
def writer(layout: Layout, *, verb: str, wait: bool = False) -> Iterator[None]:
    """Hold the right to change the store.

    Raises:
        Busy: Another process holds it; says which and since when.
        DeviceFailed: The file system has no locks.
    """
    # Only writers need it, and readers should start at once.
    from filelock import FileLock, Timeout

    lock = FileLock(
        layout.locks / "writer",
        timeout=-1 if wait else PATIENCE,
        mode=0o600,
        poll_interval=POLL,
        # A lock file without the kernel's lock would outlive a killed process.
        fallback_to_soft=False,
    )
    try:
        lock.acquire()
    except Timeout:
        raise Busy(f"the store is being changed by {_holder(layout)}") from None
    except NotImplementedError as error:
        raise DeviceFailed(f"no locks on this file system: {error}") from error
    try:
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        _say_who(layout, {"pid": os.getpid(), "since": started, "verb": verb})
        yield
    finally:
        lock.release()


def _say_who(layout: Layout, holder: Mapping[str, object]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    descriptor = os.open(layout.locks / "writer.json", flags, 0o600)
    try:
        os.write(descriptor, json.dumps(holder).encode("ascii"))
    finally:
        os.close(descriptor)


def _holder(layout: Layout) -> str:
    try:
        holder = json.loads((layout.locks / "writer.json").read_text(encoding="ascii"))
        return f"`{holder['verb']}`, process {holder['pid']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


@contextmanager
def blobs_stay(layout: Layout) -> Iterator[None]:
    """Hold the promise that no blob goes away, together with other readers."""
    with _flock(layout, fcntl.LOCK_SH, math.inf):
        yield


@contextmanager
def blobs_may_go(layout: Layout, *, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the right to remove blobs; the caller is the writer already.

    Raises:
        Busy: Somebody is still reading them when the patience is over.
    """
    with _flock(layout, fcntl.LOCK_EX, patience):
        yield


@contextmanager
def _flock(layout: Layout, kind: int, patience: float) -> Iterator[None]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(layout.locks / "blobs", flags, 0o600)
    try:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Busy("another process is reading the store's blobs") from None
                time.sleep(POLL)
        yield
    finally:
        os.close(descriptor)
