"""The child process that decodes: reads one request a line, answers with one reply, and writes no file.

A reply is the length of its header and of its pixels (two big-endian 32-bit numbers), the header as JSON, the pixels.
The header is `{"refused": reason}` or the fields of `Cropped` but for the pixels. Neither side runs or unpickles
anything the other one says.
"""

import json
import resource
import struct
import sys
from pathlib import Path
from typing import Any

from conceptctl.errors import PicturesRefused
from conceptctl.images import files
from conceptctl.images.pixels import Cropped, Wanted, read_cropped

LENGTHS = struct.Struct(">II")
MEBIBYTE = 1 << 20


def main() -> None:
    """Serve requests until the parent closes its end: `child.py CPU_SECONDS MEMORY_BYTES`."""
    seconds, memory = (int(argument) for argument in sys.argv[1:])
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_AS, memory)
    _reply({"ready": True})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _allow_seconds(seconds)
        try:
            found = _read(request)
        except PicturesRefused as refusal:
            _reply({"refused": str(refusal)})
        except MemoryError:
            _reply({"refused": f"needs more than {memory // MEBIBYTE} MiB of memory to decode"})
        else:
            header = {key: getattr(found, key) for key in ("size", "digest", "photographic", "notes")}
            _reply(header, found.pixels)


def _read(request: dict[str, Any]) -> Cropped:
    with files.open_regular(Path(request["path"]), follow=request["follow"]) as file:
        return read_cropped(file, Wanted(**request["wanted"]))


def _reply(header: dict[str, Any], pixels: bytes = b"") -> None:
    text = json.dumps(header).encode()
    sys.stdout.buffer.write(LENGTHS.pack(len(text), len(pixels)) + text + pixels)
    sys.stdout.buffer.flush()


def _lower(limit: int, value: int) -> None:
    """Lower a limit for good; one that the system has lower, or does not know, stays as it is."""
    _, hard = resource.getrlimit(limit)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(limit, (value, value))
    except (OSError, ValueError):
        # macOS does not limit address space; time is limited there too.
        return


def _allow_seconds(seconds: int) -> None:
    """End the process after this much more computing, even when no parent is left to do it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    until = int(usage.ru_utime + usage.ru_stime) + 1 + seconds
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (until if hard == resource.RLIM_INFINITY else min(until, hard), hard))
