"""Failing or stopping at the n-th call that changes the disk, without leaving Python.

SQLite's own calls are not among these; the long forms, which use strace, reach them too.
"""

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

from tests.faults.drills import quiet

CALLS = ("open", "write", "fsync", "rename", "unlink", "mkdir", "rmdir", "link")
"""Functions of `os` through which the store changes the disk."""


def changes(name: str, arguments: tuple) -> bool:
    """Return whether a call changes the disk; opening to read does not."""
    return name != "open" or (len(arguments) > 1 and bool(arguments[1] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)))


@contextmanager
def intercepted(before: Callable[[int, str, tuple], None]) -> Iterator[list[int]]:
    """Call `before` ahead of every call that changes the disk, with its number from 1."""
    count = [0]

    def wrap(name, real):
        def call(*arguments, **options):
            if changes(name, arguments):
                count[0] += 1
                before(count[0], name, arguments)
            return real(*arguments, **options)

        return call

    with contextmanager_stack([mock.patch.object(os, name, wrap(name, getattr(os, name))) for name in CALLS]):
        yield count


@contextmanager
def contextmanager_stack(patches) -> Iterator[None]:
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def killed_at(point: int, run: Callable[[], int]) -> int:
    """Run something in a child that is killed ahead of a call; return the exit code, or minus the signal."""
    child = os.fork()
    if child == 0:
        quiet()

        def kill(number, name, arguments):
            if number == point:
                os.kill(os.getpid(), signal.SIGKILL)

        with intercepted(kill):
            os._exit(run())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def failing_at(point: int, number: int, run: Callable[[], int]) -> int:
    """Run something in this process where one call fails with an error number; return its exit code."""

    def fail(count, name, arguments):
        if count == point:
            raise OSError(number, os.strerror(number))

    with intercepted(fail):
        return run()


ERRORS = {errno.ENOSPC: 7, errno.EIO: 9, errno.EMFILE: 9}
"""What a full disk, a broken one and too many open files end with."""
