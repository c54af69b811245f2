"""The child process seen from its parent: a decoder that hangs, crashes or eats memory is a refusal."""

import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from conceptctl.errors import DeviceFailed, PicturesRefused
from conceptctl.images.child import LENGTHS, MEBIBYTE
from conceptctl.images.pixels import Cropped, Wanted

_CHILD = "from conceptctl.images.child import main; main()"
_LONGEST_PART = 64 * MEBIBYTE


@dataclasses.dataclass(frozen=True)
class Limits:
    """What decoding one picture may take. Of what is not refused for its size the worst is WebP: 2.4 GiB."""

    cpu_seconds: int = 30
    """Seconds of computing."""
    wall_seconds: float = 180
    """Seconds on the clock: many times more, because the machine may be busy with something else."""
    memory: int = 2560 * MEBIBYTE
    """Address space of the child, in bytes."""


class _NoAnswer(Exception):
    """The child ended before it had answered, said something else, or took too long."""

    def __init__(self, *, late: bool = False) -> None:
        super().__init__()
        self.late = late


class Decoder:
    """Decodes pictures in a child process, which is started when it is needed and again when it died.

    The pixels come through a pipe: nothing is written to disk.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def cropped(self, path: Path, wanted: Wanted, *, follow: bool = False) -> Cropped:
        """Return the middle of a picture at the wanted size.

        Args:
            path: A file that is regular as far as is known.
            wanted: What the picture must be and become.
            follow: Read what a symbolic link points to.

        Raises:
            PicturesRefused: It breaks a rule; the message is the reason alone.
            DeviceFailed: No process could be started.
        """
        child = self._child or self._start()
        request = {"path": str(path.absolute()), "follow": follow, "wanted": dataclasses.asdict(wanted)}
        try:
            self._ask(child, request)
            return self._answer(child, wanted)
        except _NoAnswer as silence:
            self._end()
            late = silence.late or child.returncode == -signal.SIGXCPU
            reason = "takes too long to decode" if late else "its decoder crashed: damaged, or made to do harm"
            raise PicturesRefused(reason) from None
        except PicturesRefused:
            raise
        except BaseException:
            # An answer that nobody read must not be taken for the answer to the next request.
            self._end()
            raise

    def _start(self) -> subprocess.Popen[bytes]:
        # -P and absolute paths: nothing is imported from a folder that happens to be the current one.
        paths = os.pathsep.join(str(Path(path).absolute()) for path in sys.path)
        arguments = [str(self.limits.cpu_seconds), str(self.limits.memory)]
        try:
            child = subprocess.Popen(  # noqa: S603 - our own program, no shell
                [sys.executable, "-P", "-c", _CHILD, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env={**os.environ, "PYTHONPATH": paths},
                # Ctrl-C is the parent's to answer.
                start_new_session=True,
            )
        except OSError as error:
            raise DeviceFailed(f"no process could be started to read pictures: {error.strerror}") from error
        self._child = child
        try:
            self._receive(child)
        except _NoAnswer:
            raise DeviceFailed("the process that reads pictures ended at once: is there memory left?") from None
        return child

    def _ask(self, child: subprocess.Popen[bytes], request: dict[str, Any]) -> None:
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            raise _NoAnswer from None

    def _answer(self, child: subprocess.Popen[bytes], wanted: Wanted) -> Cropped:
        header, pixels = self._receive(child)
        if "refused" in header:
            raise PicturesRefused(str(header["refused"]))
        try:
            width, height = header["size"]
            found = Cropped(pixels, (width, height), header["digest"], header["photographic"], tuple(header["notes"]))
            wide, high = wanted.bucket(found.size)
        except (LookupError, TypeError, ValueError, ArithmeticError):
            raise _NoAnswer from None
        if len(pixels) != 3 * wide * high:
            raise _NoAnswer
        return found

    def _receive(self, child: subprocess.Popen[bytes]) -> tuple[dict[str, Any], bytes]:
        until = time.monotonic() + self.limits.wall_seconds
        text_length, pixels_length = LENGTHS.unpack(_read(child, LENGTHS.size, until))
        if max(text_length, pixels_length) > _LONGEST_PART:
            raise _NoAnswer
        try:
            header = json.loads(_read(child, text_length, until))
        except ValueError:
            raise _NoAnswer from None
        if not isinstance(header, dict):
            raise _NoAnswer
        return header, _read(child, pixels_length, until)

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()


def _read(child: subprocess.Popen[bytes], count: int, until: float) -> bytes:
    """Read exactly so many bytes of the child's answer, until a time on the monotonic clock."""
    assert child.stdout is not None
    found = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while len(found) < count:
            if not selector.select(max(0.0, until - time.monotonic())):
                raise _NoAnswer(late=True)
            # Past the buffer: what stands in it would not make the pipe ready.
            piece = os.read(child.stdout.fileno(), count - len(found))
            if not piece:
                raise _NoAnswer
            found += piece
    return bytes(found)
