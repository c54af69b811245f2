"""Pictures as large as phones make them, through the real process with its limits."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from conceptctl.errors import PicturesRefused
from conceptctl.images.gate import Rules, check_folder
from tests.images import faulty

LEFT, RIGHT = (200, 40, 30), (30, 60, 190)


def large_jpeg(width: int, height: int, turned: bool = False) -> bytes:
    """Return a large JPEG of two colours made of a small one: the rows of blocks stand in it again and again."""
    image = faulty.halves(LEFT, RIGHT, size=(width, 16))
    exif = Image.Exif()
    if turned:
        exif[274] = 6
    buffer = io.BytesIO()
    # Every row of blocks begins anew at a restart marker, so that rows can be repeated.
    image.save(buffer, "JPEG", restart_marker_rows=1, subsampling=2, exif=exif)
    data = bytearray(buffer.getvalue())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 7] = struct.pack(">H", height)
    scan = data.index(b"\xff\xda")
    begin = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
    row = bytes(data[begin:-2])
    rows = -(-height // 16)
    body = b"".join(row + bytes([0xFF, 0xD0 + index % 8]) for index in range(rows - 1)) + row
    return bytes(data[:begin]) + body + b"\xff\xd9"


def read(folder, data, **rules):
    (folder / "one.jpg").write_bytes(data)
    (only,) = check_folder(folder, Rules(side=64, **rules)).pictures
    return only


@pytest.mark.parametrize(("width", "height"), [(12_000, 9_000), (16_320, 12_240), (30_000, 8_000)])
def test_a_jpeg_of_a_phone_is_read_at_a_fraction_of_its_size(tmp_path, width, height):
    only = read(tmp_path, large_jpeg(width, height))
    assert only.size == (width, height)
    assert only.notes == (f"{width * height / 1e6:.0f} megapixels, read at a fraction of its size",)
    found = np.asarray(only.image()).astype(int)
    assert abs(found[32, 8] - LEFT).max() <= 6
    assert abs(found[32, 56] - RIGHT).max() <= 6
    assert abs(found[:, 31] - found[:, 8]).max() < 120


def test_a_large_one_that_lies_on_its_side_is_turned(tmp_path):
    only = read(tmp_path, large_jpeg(12_000, 9_000, turned=True))
    assert only.size == (9_000, 12_000)
    found = np.asarray(only.image()).astype(int)
    assert abs(found[8, 32] - LEFT).max() <= 6
    assert abs(found[56, 32] - RIGHT).max() <= 6


def test_a_palette_of_64_megapixels_is_averaged(tmp_path):
    image = faulty.halves(0, 1, "P", (8_000, 8_000))
    image.putpalette([*LEFT, *RIGHT])
    only = read(tmp_path, faulty.encoded(image, compress_level=1))
    found = np.asarray(only.image())
    assert found[32, [8, 56]].tolist() == [list(LEFT), list(RIGHT)]
    assert only.size == (8_000, 8_000)


def test_a_jpeg_that_memory_would_not_hold_is_refused_from_its_header(tmp_path):
    data = bytearray(large_jpeg(320, 160))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 40_000, 40_000)
    (tmp_path / "one.jpg").write_bytes(data)
    with pytest.raises(PicturesRefused, match=r"40000 x 40000 pixels: memory holds 1000 megapixels of a JPEG picture"):
        check_folder(tmp_path, Rules(side=64))
