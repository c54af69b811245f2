"""Every kind of bad input: each test makes a file that has the fault, beside three good ones."""

import os
import socket
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from conceptctl.errors import PicturesRefused
from conceptctl.images import files
from conceptctl.images.gate import Rules, check_folder
from conceptctl.images.listing import MOST_FILES
from tests.images import faulty
from tests.images.faulty import encoded, good_folder, picture

SMALL = Rules(side=64, min_side=64)


@pytest.fixture
def folder(tmp_path):
    return good_folder(tmp_path / "photos")


def reason(folder, name, rules=SMALL):
    """Return why the one bad file is refused; the good ones must not be named."""
    with pytest.raises(PicturesRefused) as caught:
        check_folder(folder, rules)
    first, *lines = str(caught.value).splitlines()
    assert first == f"1 of 4 files in {folder} refused:"
    assert len(lines) == 1
    assert caught.value.exit_code == 3
    assert "--skip-bad" in caught.value.hint
    path, _, why = lines[0].strip().partition(": ")
    assert path == str(folder / name)
    return why


def refused(folder, data: bytes, name="bad.jpg", rules=SMALL):
    (folder / name).write_bytes(data)
    return reason(folder, name, rules)


def all_refused(folder, files: dict[str, bytes]) -> list[str]:
    """Return why each of several bad files is refused, beside the three good ones."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    checked = check_folder(folder, Rules(side=64, min_side=64, skip_bad=True))
    assert len(checked.pictures) == 3
    assert [refusal.path.name for refusal in checked.refusals] == sorted(files)
    return [refusal.reason for refusal in checked.refusals]


def test_no_folder(tmp_path):
    with pytest.raises(PicturesRefused, match=r"no folder .*nowhere"):
        check_folder(tmp_path / "nowhere", SMALL)


def test_a_file_for_a_folder(tmp_path):
    (tmp_path / "one.png").write_bytes(encoded(picture()))
    with pytest.raises(PicturesRefused, match=r"one\.png is not a folder"):
        check_folder(tmp_path / "one.png", SMALL)


def test_an_empty_folder(tmp_path):
    with pytest.raises(PicturesRefused, match="no picture in") as caught:
        check_folder(tmp_path, SMALL)
    assert "skip-bad" not in caught.value.hint


def test_a_folder_of_folders_names_them(tmp_path):
    good_folder(tmp_path / "10_alice")
    with pytest.raises(PicturesRefused, match=r"no picture in .*; it holds folders: 10_alice"):
        check_folder(tmp_path, SMALL)


def test_an_unreadable_folder(tmp_path, monkeypatch):
    def denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "iterdir", denied)
    with pytest.raises(PicturesRefused, match="cannot be read: Permission denied"):
        check_folder(tmp_path, SMALL)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable to root")
def test_an_unreadable_file(folder):
    (folder / "bad.jpg").write_bytes(encoded(picture(9)))
    (folder / "bad.jpg").chmod(0)
    assert reason(folder, "bad.jpg") == "cannot be read: Permission denied"


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file that opens and cannot be read")
def test_a_file_that_fails_while_it_is_read(folder):
    (folder / "bad.jpg").symlink_to("/proc/self/mem")
    rules = Rules(side=64, min_side=64, follow_symlinks=True)
    assert reason(folder, "bad.jpg", rules) == "cannot be read: Input/output error"


def test_a_folder_of_far_too_many_files(tmp_path):
    for index in range(MOST_FILES + 1):
        (tmp_path / f"{index}.jpg").touch()
    with pytest.raises(PicturesRefused, match=f"{MOST_FILES + 1} files in .*: at most {MOST_FILES}"):
        check_folder(tmp_path, SMALL)


class TestNotARegularFile:
    def test_symlink(self, folder, tmp_path):
        (tmp_path / "elsewhere.png").write_bytes(encoded(picture(9)))
        (folder / "bad.jpg").symlink_to(tmp_path / "elsewhere.png")
        assert reason(folder, "bad.jpg").startswith("not a regular file but a symbolic link; --follow-symlinks")
        checked = check_folder(folder, Rules(side=64, min_side=64, follow_symlinks=True))
        assert checked.pictures[0].path.name == "bad.jpg"

    def test_symlink_to_nothing(self, folder):
        (folder / "bad.jpg").symlink_to("nowhere")
        rules = Rules(side=64, min_side=64, follow_symlinks=True)
        assert reason(folder, "bad.jpg", rules) == "cannot be read: No such file or directory"

    def test_symlink_to_a_pipe(self, folder, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        (folder / "bad.jpg").symlink_to(tmp_path / "pipe")
        rules = Rules(side=64, min_side=64, follow_symlinks=True)
        assert reason(folder, "bad.jpg", rules) == "not a regular file but a named pipe"

    def test_symlink_to_itself(self, folder):
        (folder / "bad.jpg").symlink_to("bad.jpg")
        rules = Rules(side=64, min_side=64, follow_symlinks=True)
        assert reason(folder, "bad.jpg", rules) == "not a regular file but a symbolic link"

    def test_pipe(self, folder):
        os.mkfifo(folder / "bad.jpg")
        assert reason(folder, "bad.jpg") == "not a regular file but a named pipe"

    def test_socket(self, folder, monkeypatch):
        # The path of a socket must be short.
        monkeypatch.chdir(folder)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("bad.jpg")
            assert reason(folder, "bad.jpg") == "not a regular file but a socket"

    def test_folder(self, folder):
        (folder / "bad.jpg").mkdir()
        assert reason(folder, "bad.jpg") == "not a regular file but a folder"

    def test_one_that_becomes_a_pipe_after_it_was_looked_at(self, folder, monkeypatch):
        os.mkfifo(folder / "bad.jpg")
        monkeypatch.setattr("conceptctl.images.files.check_regular", lambda path, *, follow: None)
        assert reason(folder, "bad.jpg") == "not a regular file but a named pipe"

    def test_one_that_becomes_a_symlink_after_it_was_looked_at(self, folder, monkeypatch):
        (folder / "bad.jpg").symlink_to("good0.png")
        monkeypatch.setattr("conceptctl.images.files.check_regular", lambda path, *, follow: None)
        assert reason(folder, "bad.jpg") == "not a regular file but a symbolic link"


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 640 480\n"
NO_PICTURES = {
    "empty": (b"", "an empty file"),
    "text": (b"not a picture at all\n", "not a picture but text"),
    "text that begins like a BMP": (b"BMW, the car\n", "not a picture but text"),
    "text in UTF-8": ("ein schönes Bild\n".encode(), "not a picture but text"),
    "text in UTF-16": ("a text".encode("utf-16"), "not a picture but text"),
    "html": (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "not a picture but an HTML page"),
    "svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "not a picture but an SVG drawing"),
    "eps": (EPS, "not a picture but an EPS or PostScript drawing"),
    "eps with a preview": (b"\xc5\xd0\xd3\xc6" + bytes(26) + EPS, "not a picture but an EPS or PostScript drawing"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "not a picture but a PDF document"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n",
        "not a picture but a Git LFS pointer instead of the picture: git lfs pull fetches it",
    ),
    "zip": (b"PK\x03\x04" + bytes(30), "not a picture but a ZIP archive"),
    "unknown": (bytes(range(256)), "not a picture: JPEG, PNG, WebP, AVIF, HEIC, BMP, GIF and TIFF are read"),
    "video": (faulty.container(b"isom", b"mp42"), "not a picture but a video"),
    "raw of another camera": (b"II*\0\x10\0\0\0CR\2\0" + bytes(64), "not a picture but a camera's raw file"),
    "raw of one camera": (faulty.container(b"crx "), "not a picture but a camera's raw file"),
    "heic": (faulty.container(b"heic", b"mif1", b"heic"), "damaged"),
    "avif": (faulty.container(b"mif1", b"avif"), "damaged"),
}


def test_no_picture_by_its_content_whatever_its_name(folder):
    suffixes = [".jpg", ".png", ".tiff", "", ".jpg.exe"]
    data, expected = {}, {}
    for number, (content, why) in enumerate(NO_PICTURES.values()):
        # A plain text is beside pictures by a name that claims nothing else.
        for place, suffix in enumerate(suffixes[:3] if why == "not a picture but text" else suffixes):
            name = f"bad{number:02}-{place}{suffix}"
            data[name], expected[name] = content, why
    assert dict(zip(sorted(data), all_refused(folder, data), strict=True)) == expected


@pytest.mark.parametrize(
    ("brands", "hint"),
    [
        ((b"heic", b"mif1"), r"a HEIC picture: pip install 'conceptctl\[heic\]'"),
        ((b"mif1", b"avif"), "an AVIF picture"),
    ],
)
def test_what_nothing_here_decodes_is_told_with_what_helps(brands, hint, monkeypatch):
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    files.decoders.cache_clear()
    try:
        with pytest.raises(PicturesRefused, match=f"{hint}.*save it as JPEG or PNG"):
            files.picture_format(faulty.container(*brands))
    finally:
        files.decoders.cache_clear()


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_a_cut_off_phone_picture(folder, kind):
    files.decoders()
    whole = encoded(picture(9), kind)
    assert refused(folder, whole[: len(whole) // 2]).startswith("damaged")


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF"])
def test_any_name_will_do_for_a_picture(tmp_path, name):
    files.decoders()
    for index in range(3):
        (tmp_path / f"{index}.txt").write_bytes(encoded(picture(index), name))
    assert len(check_folder(tmp_path, SMALL).pictures) == 3


ENCODINGS = {
    "JPEG": {},
    "progressive JPEG": {"progressive": True},
    "PNG": {},
    "WEBP": {},
    "lossless WEBP": {"lossless": True},
    "BMP": {},
    "GIF": {},
    "TIFF": {},
    "deflated TIFF": {"compression": "tiff_adobe_deflate"},
}


def test_truncated(folder):
    files = {}
    for kind, options in ENCODINGS.items():
        data = encoded(picture(9), kind.split()[-1], **options)
        cuts = [len(data) * share // 100 for share in (10, 30, 50, 70, 90, 98)]
        files |= {f"bad {kind} {cut}": data[:cut] for cut in cuts}
    whys = dict(zip(sorted(files), all_refused(folder, files), strict=True))
    assert {name: why for name, why in whys.items() if not why.startswith("damaged")} == {}


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncation_is_called_that(folder, kind):
    data = encoded(picture(9), kind)
    assert refused(folder, data[: len(data) // 2]) == "damaged: it ends too early"


def test_a_bit_of_a_png_flipped(folder):
    data = encoded(picture(9, (64, 64)))
    files = {}
    # The last part has nothing in it.
    for position in range(8, len(data) - 12, 25):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        files[f"bad{position:06}.png"] = bytes(flipped)
    assert len(files) > 200
    whys = all_refused(folder, files)
    # A flip in the header can also ask for another size, which breaks another rule.
    assert [why for why in whys[2:] if not why.startswith("damaged")] == []


def test_a_flipped_bit_in_a_jpeg_header(folder):
    data = bytearray(encoded(picture(9), "JPEG"))
    table = data.index(b"\xff\xc4")
    data[table + 5] ^= 0xFF
    assert refused(folder, data) == "damaged"


def test_too_large_from_the_header(folder):
    sizes = [(20_000, 10_001), (30_000, 7_000), (60_000, 60_000)]
    whys = all_refused(
        folder, {f"bad{width:05} {height:05}.png": faulty.png_of_size(width, height) for width, height in sizes}
    )
    limits = "memory holds 200 megapixels of a PNG picture; save it smaller, or as JPEG"
    assert whys == [f"{width} x {height} pixels: {limits}" for width, height in sizes]


def test_too_large_a_webp_is_not_decoded(folder):
    # The header of a lossless WebP: 14 bits a side.
    bits = (16_383 - 1) | (16_383 - 1) << 14
    body = b"WEBPVP8L" + struct.pack("<IBI", 12, 0x2F, bits) + bytes(7)
    assert "memory holds 100 megapixels of a WEBP" in refused(folder, b"RIFF" + struct.pack("<I", len(body)) + body)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animated(folder, kind):
    assert refused(folder, faulty.frames(kind)) == "5 frames; --first-frame takes the first one"


def test_a_float_tiff(folder):
    levels = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    why = refused(folder, encoded(Image.fromarray(levels), "TIFF"), "bad.tif")
    assert why.startswith("floating-point levels, whose black and white are unknown")


def test_a_32_bit_tiff(folder):
    levels = np.arange(64 * 64, dtype=np.int32).reshape(64, 64)
    assert refused(folder, encoded(Image.fromarray(levels), "TIFF")).startswith("32-bit or signed levels")


def test_a_lab_tiff(folder):
    assert refused(folder, encoded(Image.new("LAB", (64, 64)), "TIFF")) == "LAB colours are not read: save it as RGB"


def test_a_folder_whose_files_cannot_be_looked_at(folder, monkeypatch):
    (folder / "neither").mkdir()
    lstat = type(folder).lstat

    def denied(self):
        if self.parent == folder:
            raise PermissionError(13, "Permission denied")
        return lstat(self)

    monkeypatch.setattr(type(folder), "lstat", denied)
    with pytest.raises(PicturesRefused, match=r"4 of 4 files[^\n]*(\n.*cannot be read: Permission denied){4}"):
        check_folder(folder, SMALL)


@pytest.mark.parametrize("tags", [{254: 1}, {50706: b"\1\4\0\0"}])
def test_a_camera_raw_file_that_begins_with_a_thumbnail(folder, tags):
    assert refused(folder, encoded(picture(9), "TIFF", tiffinfo=tags)).startswith("a camera's raw file")


@pytest.mark.parametrize(("min_side", "size"), [(64, (63, 90)), (256, (1000, 255)), (256, (255, 255))])
def test_a_side_too_small(tmp_path, min_side, size):
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(encoded(picture(index, (min_side, min_side + 1))))
    why = refused(tmp_path, encoded(picture(9, size)), rules=Rules(side=64, min_side=min_side))
    assert why == f"{size[0]} x {size[1]} pixels: too small, the shorter side must have {min_side}"


@pytest.mark.parametrize("size", [(257, 64), (64, 257)])
def test_too_long(folder, size):
    assert (
        refused(folder, encoded(picture(9, size))) == f"{size[0]} x {size[1]} pixels: more than 4 times as long as wide"
    )


def test_four_times_as_long_is_not_too_long(tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(encoded(picture(index, (256, 64))))
    assert len(check_folder(tmp_path, SMALL).pictures) == 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_one_colour(folder, kind):
    plain = Image.new("RGB", (80, 80), (120, 30, 200))
    assert refused(folder, encoded(plain, kind)) == "one colour all over the part that would be learned from"


def test_all_transparent_is_one_colour(folder):
    clear = picture(9).copy()
    clear.putalpha(0)
    assert refused(folder, encoded(clear)).startswith("one colour")


def test_the_same_pixels_leave_too_few(tmp_path):
    for name, index in (("a", 0), ("b", 1), ("c", 0)):
        (tmp_path / f"{name}.png").write_bytes(encoded(picture(index)))
    assert len(check_folder(tmp_path, SMALL).pictures) == 2
    with pytest.raises(PicturesRefused) as caught:
        check_folder(tmp_path, Rules(side=64, min_side=64, fewest=3))
    assert str(caught.value) == (
        f"2 different pictures in {tmp_path}, at least 3 are needed:"
        f"\n  {tmp_path / 'c.png'}: the same pixels as a.png, counted once"
    )


def test_every_bad_one_is_named_in_one_run(folder):
    (folder / "a.jpg").write_bytes(b"")
    (folder / "b.gif").write_bytes(faulty.frames("GIF"))
    (folder / "z.png").write_bytes(faulty.png_of_size(60_000, 60_000))
    with pytest.raises(PicturesRefused) as caught:
        check_folder(folder, SMALL)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("3 of 6 files")
    assert [line.split(":")[0].strip() for line in lines] == [
        str(folder / name) for name in ("a.jpg", "b.gif", "z.png")
    ]


@pytest.mark.parametrize("left", [1, 3])
def test_skip_bad_goes_on_with_what_is_left(tmp_path, left):
    folder = good_folder(tmp_path / "few", left)
    (folder / "bad.jpg").write_bytes(b"")
    checked = check_folder(folder, Rules(side=64, min_side=64, skip_bad=True))
    assert len(checked.pictures) == left
    assert [str(refusal) for refusal in checked.refusals] == [f"{folder / 'bad.jpg'}: an empty file"]


def test_skip_bad_does_not_go_on_with_none(tmp_path):
    (tmp_path / "good0.png").write_bytes(b"")
    with pytest.raises(PicturesRefused, match=r"no picture in .* is left:\n .*good0\.png: an empty"):
        check_folder(tmp_path, Rules(side=64, min_side=64, skip_bad=True))


def test_a_name_is_shown_so_that_a_terminal_does_not_obey_it(folder):
    (folder / "\x1b[2Jbad\n.jpg").write_bytes(b"")
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes(b"")
    with pytest.raises(PicturesRefused) as caught:
        check_folder(folder, SMALL)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)


def test_the_gate_leaves_torch_alone():
    code = "import sys, conceptctl.images.gate; print([n for n in ('torch', 'numpy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
