"""The child process: whatever a decoder does, the parent gets a reason and goes on."""

import os
import resource
import signal
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conceptctl.errors import DeviceFailed, PicturesRefused
from conceptctl.images import decoder as decoding
from conceptctl.images.decoder import Decoder, Limits
from conceptctl.images.gate import Rules, check_folder
from conceptctl.images.pixels import Wanted
from tests.images import faulty
from tests.images.faulty import encoded, good_folder, picture

WANTED = Wanted(side=64, min_side=64, first_frame=False)
LATE = "takes too long to decode"
CRASHED = "its decoder crashed: damaged, or made to do harm"
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    path = tmp_path_factory.mktemp("slow") / "slow.jpg"
    path.write_bytes(faulty.slow_jpeg())
    assert path.stat().st_size < 500_000
    return path


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.png"
    path.write_bytes(encoded(picture(1)))
    return path


def why(decoder, path):
    with pytest.raises(PicturesRefused) as caught:
        decoder.cropped(path, WANTED)
    return str(caught.value)


def test_one_that_computes_for_ever(slow, good):
    with Decoder(Limits(cpu_seconds=1)) as decoder:
        assert why(decoder, slow) == LATE
        assert decoder.cropped(good, WANTED).size == (96, 80)


def test_one_that_takes_too_long_on_the_clock(slow, good):
    with Decoder() as decoder:
        decoder.cropped(good, WANTED)
        child = decoder._child
        decoder.limits = Limits(wall_seconds=0.2)
        assert why(decoder, slow) == LATE
        assert child.returncode == -signal.SIGKILL
        decoder.limits = Limits()
        assert decoder.cropped(good, WANTED).size == (96, 80)


def test_many_short_ones_are_not_one_long_one(tmp_path):
    (tmp_path / "some.png").write_bytes(encoded(picture(1, (2000, 2000)), compress_level=1))
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with Decoder(Limits(cpu_seconds=1)) as decoder:
        children = set()
        for _ in range(30):
            decoder.cropped(tmp_path / "some.png", WANTED)
            children.add(decoder._child.pid)
    assert len(children) == 1
    # More than the limit and its rounding allow a single picture.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before > 2


@pytest.mark.skipif(sys.platform == "darwin", reason="the system does not limit address space")
def test_one_that_eats_memory(tmp_path, good):
    (tmp_path / "big.png").write_bytes(encoded(picture(1, (6000, 6000)), compress_level=1))
    with Decoder(Limits(memory=100 * decoding.MEBIBYTE)) as decoder:
        decoder.cropped(good, WANTED)
        child = decoder._child
        assert why(decoder, tmp_path / "big.png") == "needs more than 100 MiB of memory to decode"
        assert decoder.cropped(good, WANTED).size == (96, 80)
        assert decoder._child is child


def test_one_that_crashes(slow, good):
    with Decoder() as decoder:
        decoder.cropped(good, WANTED)
        killer = threading.Timer(0.3, os.kill, (decoder._child.pid, signal.SIGSEGV))
        killer.start()
        assert why(decoder, slow) == CRASHED
        killer.join()
        assert decoder.cropped(good, WANTED).size == (96, 80)


def test_a_child_that_died_between_two_pictures_costs_one(good):
    with Decoder() as decoder:
        decoder.cropped(good, WANTED)
        decoder._child.kill()
        decoder._child.wait()
        assert why(decoder, good) == CRASHED
        assert decoder.cropped(good, WANTED).size == (96, 80)


def answering(*parts: bytes) -> str:
    """Return a child that says it is ready, and then anything but what it should."""
    ready = decoding.LENGTHS.pack(2, 0) + b"{}"
    lines = "import sys; w = sys.stdout.buffer"
    return f"{lines}; w.write({ready!r}); w.flush(); sys.stdin.buffer.readline(); w.write({b''.join(parts)!r})"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0",
        decoding.LENGTHS.pack(9, 0) + b"{not json",
        decoding.LENGTHS.pack(2, 0) + b"[]",
        decoding.LENGTHS.pack(2, 0) + b"{}",
        decoding.LENGTHS.pack(2**31, 2**31),
        decoding.LENGTHS.pack(65, 1) + b'{"size":[1,2],"digest":"","photographic":true,"notes":["      "]}' + b"1",
    ],
)
def test_an_answer_that_is_none(monkeypatch, good, answer):
    monkeypatch.setattr(decoding, "_CHILD", answering(answer))
    with Decoder() as decoder:
        assert why(decoder, good) == CRASHED


def test_a_child_that_cannot_start(monkeypatch, good):
    monkeypatch.setattr(decoding, "_CHILD", "raise SystemExit(1)")
    with Decoder() as decoder, pytest.raises(DeviceFailed, match="ended at once"):
        decoder.cropped(good, WANTED)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with Decoder() as decoder, pytest.raises(DeviceFailed, match="No such file"):
        decoder.cropped(good, WANTED)


def test_an_interruption_ends_the_child(tmp_path, monkeypatch):
    children = []
    started = Decoder._start

    def start(self):
        children.append(started(self))
        return children[-1]

    def interrupt(done, total):
        raise KeyboardInterrupt

    monkeypatch.setattr(Decoder, "_start", start)
    good_folder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        check_folder(tmp_path, Rules(side=64, min_side=64), progress=interrupt)
    assert [child.returncode for child in children] == [-signal.SIGKILL]


@linux
def test_the_child_can_write_no_file_and_leave_no_core(good):
    with Decoder() as decoder:
        decoder.cropped(good, WANTED)
        limits = Path(f"/proc/{decoder._child.pid}/limits").read_text()
    rows = {line[:25].strip(): line[25:].split()[:2] for line in limits.splitlines()}
    assert rows["Max file size"] == ["0", "0"]
    assert rows["Max core file size"] == ["0", "0"]
    assert rows["Max address space"] == [str(Limits().memory)] * 2


def test_nothing_is_imported_from_the_current_folder(tmp_path, monkeypatch, good):
    (tmp_path / "PIL.py").write_text("raise SystemExit('the wrong PIL')")
    monkeypatch.chdir(tmp_path)
    with Decoder() as decoder:
        assert decoder.cropped(good, WANTED).size == (96, 80)


SMALL_FILES = [
    encoded(picture(3, (70, 66), mode), name, **options)
    for mode, name, options in (
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True, "icc_profile": faulty.wide_profile()}),
        ("CMYK", "JPEG", {"exif": b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"}),
        ("RGB", "PNG", {"icc_profile": faulty.wide_profile()}),
        ("P", "PNG", {"transparency": 3}),
        ("RGB", "WEBP", {}),
        ("RGBA", "WEBP", {"lossless": True}),
        ("RGB", "BMP", {}),
        ("P", "GIF", {}),
        ("RGB", "TIFF", {}),
        ("LA", "TIFF", {"compression": "tiff_lzw"}),
        ("L", "TIFF", {"compression": "tiff_adobe_deflate"}),
    )
] + [faulty.frames("GIF", 2), faulty.frames("MPO", 2)]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    with Decoder(Limits(cpu_seconds=10)) as decoder:
        yield decoder, tmp_path_factory.mktemp("fuzz") / "fuzzed"


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    data=st.sampled_from(SMALL_FILES),
    # Most of what a decoder decides on stands at the beginning.
    flips=st.lists(st.tuples(st.integers(0, 700) | st.integers(0, 20_000), st.integers(0, 255)), max_size=6),
    keep=st.integers(0, 20_000),
    extra=st.binary(max_size=8),
)
def test_only_a_refusal_escapes(fuzzed, data, flips, keep, extra):
    decoder, path = fuzzed
    broken = bytearray(data if keep > 10_000 else data[:keep])
    for position, value in flips:
        if position < len(broken):
            broken[position] = value
    path.write_bytes(broken + extra)
    try:
        found = decoder.cropped(path, WANTED)
    except PicturesRefused as refusal:
        # A crash would be contained; none is known, and one that appears is worth knowing.
        assert str(refusal) != CRASHED
    else:
        assert len(found.pixels) == 3 * 64 * 64
