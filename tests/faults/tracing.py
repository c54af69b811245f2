"""Following, killing and failing a program at its system calls, with strace; SQLite's calls are among them."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conceptctl.cli import app
from tests.faults.drills import quiet
from tests.faults.powerloss import Disk

CALLS = (
    "openat", "write", "pwrite64", "ftruncate", "fallocate", "fsync", "fdatasync", "rename", "renameat2",
    "unlink", "unlinkat", "mkdir", "rmdir", "link", "linkat",
)  # fmt: skip
LINE = re.compile(r"(?:\d+ +)?(?P<name>\w+)\((?P<rest>.*)\) += (?P<result>-?\d+)")
TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
OPENED = re.compile(r"(\d+)<((?:\\x[0-9a-f]{2})*)>")


@dataclass(frozen=True)
class Call:
    """One system call that went through.

    Attributes:
        name: Which.
        number: The how-manieth of its name in the process, from 1: what strace counts by.
        paths: Paths it names, absolute; for calls on a descriptor, the file's.
        descriptor: The descriptor it works on or returns, or -1.
        data: What it writes.
        numbers: Its plain numbers, like a size and an offset.
        flags: Everything else, as text.
    """

    name: str
    number: int
    paths: tuple[Path, ...]
    descriptor: int
    data: bytes
    numbers: tuple[int, ...]
    flags: str


def command(arguments: list[str], before: str = "") -> list[str]:
    """Return how to run a command line in a process of its own, after running `before` in it."""
    code = f"import sys\n{WITHOUT_PROMPTS}\n{before}\nfrom conceptctl.cli.app import run\nsys.exit(run(sys.argv[1:]))"
    return [sys.executable, "-c", code, *arguments, "--json"]


WITHOUT_PROMPTS = """
from conceptctl.workflows import forget, import_concept
from tests import synthetic
forget.hold_others, import_concept.join_others = synthetic.hold_others, synthetic.join_others
"""
"""The bases that others than `learn` run on have no text encoder."""


ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


def run(arguments: list[str], *options: str, before: str = "", fork: bool = False) -> int:
    """Run a command line under strace and return its exit code, minus the signal that ended it.

    Only its main thread is followed: strace counts calls by thread, and neither torch's threads nor the process that
    decodes pictures write to the store.

    Args:
        arguments: The command line.
        options: strace's.
        before: What the process runs first.
        fork: Run it in a copy of this process, which has torch in it already: loading that takes eight of nine seconds.
    """
    if fork:
        assert not before
        return _run_forked(arguments, options)
    done = subprocess.run(
        ["strace", "-qq", *options, *command(arguments, before)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return done.returncode


def _run_forked(arguments: list[str], options: tuple[str, ...]) -> int:
    starting, start = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(start)
            os.read(starting, 1)
            quiet()
            os._exit(app.run([*arguments, "--json"]))
        finally:
            os._exit(70)
    follower = subprocess.Popen(["strace", "-qq", *options, "-p", str(child)], stderr=subprocess.DEVNULL)
    try:
        status = Path(f"/proc/{child}/status")
        while f"TracerPid:\t{follower.pid}\n" not in status.read_text():
            assert follower.poll() is None, "strace may not follow another process here"
            time.sleep(0.002)
    finally:
        os.write(start, b".")
        os.close(start)
        os.close(starting)
        _, ended = os.waitpid(child, 0)
    follower.wait()
    return os.waitstatus_to_exitcode(ended)


def trace(arguments: list[str], log: Path, before: str = "", *, fork: bool = False) -> list[Call]:
    """Run a command line and return its calls."""
    names = f"trace={','.join(CALLS)}"
    assert run(arguments, "-y", "-xx", "-s", "100000000", "-o", str(log), "-e", names, before=before, fork=fork) == 0
    with log.open() as lines:
        return list(_parsed(lines))


def _parsed(lines) -> Iterator[Call]:
    count: Counter[str] = Counter()
    for line in lines:
        found = LINE.match(line)
        if not found:
            continue
        name, rest = found["name"], found["rest"]
        count[name] += 1
        if int(found["result"]) < 0:
            continue
        texts = [_bytes(each) for each in TEXT.findall(rest)]
        opened = [(int(number), Path(os.fsdecode(_bytes(path)))) for number, path in OPENED.findall(line)]
        plain = tuple(int(each) for each in re.findall(r"(?<=, )(\d+)(?=,|$)", rest))
        if name in ("write", "pwrite64"):
            yield Call(name, count[name], (opened[0][1],), opened[0][0], texts[0], plain, "")
        elif name in ("fsync", "fdatasync", "ftruncate", "fallocate"):
            yield Call(name, count[name], (opened[0][1],), opened[0][0], b"", plain, "")
        elif name == "openat":
            yield Call(name, count[name], (opened[-1][1],), opened[-1][0], b"", plain, rest.rpartition('"')[2])
        else:
            yield Call(name, count[name], tuple(Path.cwd() / os.fsdecode(text) for text in texts), -1, b"", plain, rest)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def is_change(call: Call, root: Path) -> bool:
    """Return whether a call changes the disk below a folder, or tells the user that something is done."""
    if call.name == "write" and call.descriptor == 1:
        return True
    if call.name == "openat" and not ("O_CREAT" in call.flags or "O_WRONLY" in call.flags):
        return False
    return any(path.is_relative_to(root) for path in call.paths)


def replay(calls: list[Call], disk: Disk) -> Iterator[bool]:
    """Do in the model what a program did; after each call say whether it had told the user that it is done."""
    told = False
    positions: dict[int, int] = {}
    for call in calls:
        if call.name == "openat":
            positions[call.descriptor] = 0
        if call.name == "write" and call.descriptor == 1:
            told = True
        elif is_change(call, disk.root):
            _apply(call, disk, positions)
            yield told
    yield told


def _apply(call: Call, disk: Disk, positions: dict[int, int]) -> None:
    path = call.paths[0]
    if call.name == "openat":
        disk.create(path)
        if "O_TRUNC" in call.flags:
            disk.cut(path, 0)
    elif call.name == "write":
        disk.write(path, positions[call.descriptor], call.data)
        positions[call.descriptor] += len(call.data)
    elif call.name == "pwrite64":
        disk.write(path, call.numbers[-1], call.data)
    elif call.name == "ftruncate":
        disk.cut(path, call.numbers[-1])
    else:
        _apply_to_names(call, disk)


def _apply_to_names(call: Call, disk: Disk) -> None:
    steps = {
        "fsync": disk.sync,
        "fdatasync": disk.sync,
        "rename": disk.rename,
        "unlink": disk.remove,
        "rmdir": disk.remove,
        "mkdir": disk.mkdir,
        "link": disk.link,
    }
    steps[call.name](*call.paths)
