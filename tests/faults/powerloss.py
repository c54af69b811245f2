"""T3: what may be on a disk after the power went.

A model of a file system that keeps every promise POSIX makes and no other: a file's bytes are there after its fsync,
a name is there after its folder's fsync, a rename is all or nothing. Everything else may have happened or not, in any
combination, and bytes that were not synced may be old, new, zeros or in part.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from conceptctl.store import index
from tests.faults.syscalls import CALLS, contextmanager_stack

FOLDER = None
"""What stands for a folder's content."""


@dataclass
class Inode:
    """A file or a folder: what is on the disk for sure, and what may be."""

    is_folder: bool
    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Writes as (offset, bytes), cuts as (size, None), since the last sync."""

    def content(self, chosen: list[tuple[int, bytes | None]], zeros: bool = False) -> bytes:
        data = bytearray(self.durable)
        for offset, written in chosen:
            if written is None:
                del data[offset:]
                data.extend(bytes(max(0, offset - len(data))))
            else:
                data.extend(bytes(max(0, offset + len(written) - len(data))))
                data[offset : offset + len(written)] = bytes(len(written)) if zeros else written
        return bytes(data)


Change = tuple[int, str, int | None]
"""In which folder, which name, now what; None for nothing."""


class Disk:
    """A file system below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.inodes: list[Inode] = [Inode(True)]
        self.names: dict[int, dict[str, int]] = {0: {}}
        """Every folder as programs see it."""
        self.settled: dict[int, dict[str, int]] = {0: {}}
        """Every folder as it is on the disk for sure."""
        self.pending: list[tuple[Change, ...]] = []
        for path in sorted(root.rglob("*")):
            number = self._new(path.is_dir(), path.read_bytes() if path.is_file() else b"")
            folder, name = self._place(path)
            self.names[folder][name] = self.settled[folder][name] = number

    def _new(self, is_folder: bool, content: bytes = b"") -> int:
        self.inodes.append(Inode(is_folder, content))
        number = len(self.inodes) - 1
        if is_folder:
            self.names[number], self.settled[number] = {}, {}
        return number

    def knows(self, path: str | Path) -> bool:
        """Return whether a path lies in this file system."""
        return Path(path).is_relative_to(self.root)

    def _place(self, path: str | Path) -> tuple[int, str]:
        *folders, name = Path(path).relative_to(self.root).parts
        number = 0
        for each in folders:
            number = self.names[number][each]
        return number, name

    def find(self, path: str | Path) -> int | None:
        """Return the inode a path leads to."""
        if Path(path) == self.root:
            return 0
        try:
            folder, name = self._place(path)
        except KeyError:
            return None
        return self.names[folder].get(name)

    def _change(self, *changes: Change) -> None:
        self.pending.append(changes)
        for folder, name, number in changes:
            if number is None:
                del self.names[folder][name]
            else:
                self.names[folder][name] = number

    def create(self, path: str | Path) -> None:
        if self.find(path) is None:
            self._change((*self._place(path), self._new(False)))

    def mkdir(self, path: str | Path) -> None:
        self._change((*self._place(path), self._new(True)))

    def remove(self, path: str | Path) -> None:
        self._change((*self._place(path), None))

    def rename(self, source: str | Path, target: str | Path) -> None:
        self._change((*self._place(source), None), (*self._place(target), self.find(source)))

    def link(self, source: str | Path, target: str | Path) -> None:
        self._change((*self._place(target), self.find(source)))

    def write(self, path: str | Path, offset: int, data: bytes) -> None:
        self.inodes[self.find(path)].pending.append((offset, data))

    def cut(self, path: str | Path, size: int) -> None:
        self.inodes[self.find(path)].pending.append((size, None))

    def size(self, path: str | Path) -> int:
        inode = self.inodes[self.find(path)]
        return len(inode.content(inode.pending))

    def sync(self, path: str | Path) -> None:
        number = self.find(path)
        if number is None:
            return
        inode = self.inodes[number]
        inode.durable, inode.pending = inode.content(inode.pending), []
        if inode.is_folder:
            now = [changes for changes in self.pending if any(change[0] == number for change in changes)]
            self._settle(self.settled, now)
            # What happened to a name before the last settled change of it is overtaken.
            left = []
            for number_of, changes in enumerate(self.pending):
                overtaken = {change[:2] for later in self.pending[number_of:] if later in now for change in later}
                kept = tuple(change for change in changes if change[:2] not in overtaken)
                left += [kept] if kept else []
            self.pending = left

    @staticmethod
    def _settle(folders: dict[int, dict[str, int]], changes: list[tuple[Change, ...]]) -> None:
        for each in changes:
            for folder, name, number in each:
                if number is None:
                    folders[folder].pop(name, None)
                else:
                    folders[folder][name] = number

    def states(self, rng: random.Random, extra: int) -> Iterator[dict[str, bytes | None]]:
        """Return what may be found after the power goes now: the extremes, and as many at random as asked for."""
        loose = [inode for inode in self.inodes if inode.pending]
        everything = {id(inode): (inode.pending, False) for inode in loose}
        zeros = {id(inode): (inode.pending, True) for inode in loose}
        for names in ([], self.pending):
            for data in ({}, zeros, everything):
                yield self._tree(names, data)
        for left_out in range(len(self.pending)):
            yield self._tree(self.pending[:left_out] + self.pending[left_out + 1 :], everything)
        for _ in range(extra):
            names = [changes for changes in self.pending if rng.random() < 0.5]
            data = {
                id(inode): ([part for part in inode.pending if rng.random() < 0.5], rng.random() < 0.2)
                for inode in loose
            }
            yield self._tree(names, data)

    def seen(self) -> dict[str, bytes | None]:
        """Return the file system as programs see it now."""
        return self._tree(self.pending, {id(inode): (inode.pending, False) for inode in self.inodes})

    def _tree(self, names, data) -> dict[str, bytes | None]:
        folders = {number: dict(entries) for number, entries in self.settled.items()}
        self._settle(folders, names)
        tree: dict[str, bytes | None] = {}

        def walk(number: int, where: str) -> None:
            for name, child in folders[number].items():
                inode = self.inodes[child]
                if inode.is_folder:
                    tree[where + name] = FOLDER
                    walk(child, f"{where}{name}/")
                else:
                    tree[where + name] = inode.content(*data.get(id(inode), ([], False)))

        walk(0, "")
        return tree


def lay_out(tree: dict[str, bytes | None], target: Path) -> None:
    """Write a state to a folder."""
    target.mkdir()
    for place in sorted(tree):
        content = tree[place]
        if content is FOLDER:
            (target / place).mkdir()
        else:
            (target / place).write_bytes(content)


class Recorder:
    """Does what a program asks of the disk, and writes it down in the model.

    SQLite's work is taken as it is promised: all of a transaction, durable, when the call returns. Whether it keeps
    that promise is looked at in the long form, where every one of its calls is followed too.
    """

    def __init__(self, disk: Disk, after_each) -> None:
        self.disk = disk
        self._after_each = after_each
        self._opened: dict[int, Path] = {}
        self._real = {name: getattr(os, name) for name in CALLS}

    def patches(self):
        replaced = {
            "open": self.open,
            "write": self.write,
            "fsync": self.fsync,
            "rename": self._simple("rename", self.disk.rename),
            "unlink": self._simple("unlink", self.disk.remove),
            "rmdir": self._simple("rmdir", self.disk.remove),
            "mkdir": self._simple("mkdir", self.disk.mkdir),
            "link": self._simple("link", self.disk.link),
        }
        yield from (mock.patch.object(os, name, call) for name, call in replaced.items())
        for name in ("create", "append", "rewrite", "purge_finished"):
            yield mock.patch.object(index, name, self._settled(getattr(index, name)))

    def open(self, path, flags, *rest, **options):
        descriptor = self._real["open"](path, flags, *rest, **options)
        self._opened[descriptor] = _absolute(path)
        if flags & os.O_CREAT and self.disk.knows(_absolute(path)):
            self.disk.create(_absolute(path))
            if flags & os.O_TRUNC:
                self.disk.cut(_absolute(path), 0)
            self._after_each(self.disk)
        return descriptor

    def write(self, descriptor, data):
        written = self._real["write"](descriptor, data)
        path = self._opened.get(descriptor)
        if path and self.disk.knows(path):
            self.disk.write(path, self.disk.size(path), bytes(data)[:written])
            self._after_each(self.disk)
        return written

    def fsync(self, descriptor):
        self._real["fsync"](descriptor)
        path = self._opened.get(descriptor)
        if path and self.disk.knows(path):
            self.disk.sync(path)
            self._after_each(self.disk)

    def _simple(self, name, step):
        def call(*paths, **options):
            result = self._real[name](*paths, **options)
            if self.disk.knows(_absolute(paths[0])):
                step(*[_absolute(path) for path in paths if not isinstance(path, int)])
                self._after_each(self.disk)
            return result

        return call

    def _settled(self, function):
        def call(path, *rest, **options):
            result = function(path, *rest, **options)
            self.disk.create(path)
            self.disk.cut(path, 0)
            self.disk.write(path, 0, path.read_bytes())
            self.disk.sync(path)
            self.disk.sync(path.parent)
            self._after_each(self.disk)
            return result

        return call


def _absolute(path) -> Path:
    return Path.cwd() / os.fspath(path)


@contextmanager
def recorded(root: Path, after_each) -> Iterator[Disk]:
    """Follow what this process does below a folder, and call `after_each` with the disk after every step."""
    recorder = Recorder(Disk(root), after_each)
    with contextmanager_stack(list(recorder.patches())):
        yield recorder.disk
