"""Contact sheets: large enough to see, with what they were drawn from; and files that say that a model made them."""

import errno
import os

import numpy as np
import pytest
from PIL import Image

from conceptctl.errors import UsageError
from conceptctl.images.contact_sheet import contact_sheet
from conceptctl.images.writing import KINDS, check_kind, encoded, save_new

NOTE = b"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def pictures(count, side=16):
    rng = np.random.default_rng(count)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.mark.parametrize(("count", "side"), [(1, 16), (3, 64), (5, 64), (2, 100), (4, 512)])
def test_it_is_at_least_512_wide_and_each_pixel_is_a_square(count, side):
    shown = pictures(count, side)
    sheet = contact_sheet(shown)
    columns = int(np.ceil(np.sqrt(count)))
    factor = sheet.width // (columns * side)
    assert sheet.width == columns * side * factor >= 512
    assert (factor - 1) * columns * side < 512
    first = np.asarray(sheet)[: side * factor, : side * factor]
    assert np.array_equal(first, np.asarray(shown[0]).repeat(factor, 0).repeat(factor, 1))


def test_prompt_and_seeds_stand_on_it_beside_the_pictures():
    shown = pictures(2)
    plain, told = contact_sheet(shown), contact_sheet(shown, "a photo of V*alice", ["seed 7", "seed 8"])
    top = told.height - plain.height - (told.height - plain.height) // 3
    assert told.width == plain.width
    assert told.height > plain.height
    pixels = np.asarray(told)
    below = pixels[-12:]
    assert (below < 128).any()
    assert (pixels[: top // 2] < 128).any()
    # Above and below, never over a picture.
    rows = [start for start in range(told.height) if np.array_equal(pixels[start, :256], np.asarray(plain)[0, :256])]
    assert rows
    assert np.array_equal(pixels[rows[0] : rows[0] + 256], np.asarray(plain))


@pytest.mark.parametrize("prompt", ["word " * 400, "x" * 2000, "日本語のプロンプト" * 50, "two\nlines", "\t"])
def test_long_and_odd_prompts_are_broken_and_cut(prompt):
    sheet = contact_sheet(pictures(1), prompt, ["seed 9223372036854775807"])
    assert sheet.width == 512
    assert sheet.height < 512 + 120


@pytest.mark.parametrize("ending", KINDS)
def test_every_kind_says_that_a_model_made_it(tmp_path, ending):
    sheet = contact_sheet(pictures(2), "a cat")
    path = save_new(sheet, tmp_path / f"s{ending}")
    assert NOTE in path.read_bytes()
    with Image.open(path) as picture:
        assert picture.size == sheet.size
        assert picture.format == KINDS[ending]
    assert NOTE not in save_new(sheet, tmp_path / f"bare{ending}", noted=False).read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["g.psd", "g.xyz", "g", "g.gif", "g.bmp", "g.pdf", "g.eps", ".png"])
def test_other_kinds_are_refused_with_those_that_can_be(tmp_path, name):
    with pytest.raises(UsageError) as caught:
        check_kind(tmp_path / name)
    assert ".jpg" in caught.value.hint
    check_kind(tmp_path / "g.JPG")


def test_nothing_is_overwritten(tmp_path):
    (red,), (other,) = pictures(1), pictures(1, 17)
    assert [save_new(each, tmp_path / "a.png").name for each in (red, other, red)] == ["a.png", "a-2.png", "a-3.png"]
    with Image.open(tmp_path / "a.png") as first:
        assert first.size == (16, 16)


def _fails(code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    return fail


def test_where_files_have_one_name_only(tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", _fails(errno.EPERM))
    (one,) = pictures(1)
    assert [save_new(one, tmp_path / "a.png").name for _ in range(2)] == ["a.png", "a-2.png"]
    assert (tmp_path / "a.png").read_bytes() == encoded(one, "PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-2.png", "a.png"]


def test_nothing_is_left_of_what_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", _fails(errno.ENOSPC))
    with pytest.raises(OSError, match="space"):
        save_new(pictures(1)[0], tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
