"""What becomes of pictures that are read: the square, the colours, what is noted."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from conceptctl.images import files
from conceptctl.images.gate import Rules, check_folder
from tests.images import faulty
from tests.images.faulty import encoded, good_folder, halves, picture

SMALL = Rules(side=64, min_side=64)
PHOTOGRAPHS = os.environ.get("CONCEPTCTL_PHOTOS")
ORIENTATION = 274


def read(folder, data: bytes, rules=Rules(side=64, min_side=64, fewest=1)):  # noqa: B008 - frozen
    """Return the one picture of a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "one.png").write_bytes(data)
    (only,) = check_folder(folder, rules).pictures
    return only


def levels(only) -> np.ndarray:
    return np.asarray(only.image()).astype(int)


def test_a_square_picture_of_the_right_size_stays_as_it_is(tmp_path):
    image = picture(1, (64, 64))
    only = read(tmp_path, encoded(image))
    assert only.image().tobytes() == image.tobytes()
    assert (only.size, only.notes, only.caption) == ((64, 64), (), None)


@pytest.mark.parametrize("size", [(120, 64), (64, 120)])
def test_the_middle_is_taken(tmp_path, size):
    image = picture(1, size)
    left, top = (size[0] - 64) // 2, (size[1] - 64) // 2
    only = read(tmp_path, encoded(image))
    assert only.image().tobytes() == image.crop((left, top, left + 64, top + 64)).tobytes()
    assert only.size == size


def test_a_larger_picture_is_averaged_down(tmp_path):
    fine = np.indices((256, 256)).sum(0) % 2 * 255
    fine[:, 128:] = 255
    only = read(tmp_path, encoded(Image.fromarray(fine.astype(np.uint8))))
    # Fine black and white is gray from afar; picking every fourth pixel would make it one of the two.
    assert abs(levels(only)[:, 4:28] - 127).max() <= 8


def test_a_smaller_picture_is_enlarged_and_noted(tmp_path):
    only = read(tmp_path, encoded(picture(1, (300, 256))), Rules(side=512, fewest=1))
    assert only.image().size == (512, 512)
    assert only.notes == ("enlarged: the base's own pictures are 512 x 512 pixels",)


def test_first_frame(tmp_path):
    rules = Rules(side=64, min_side=64, fewest=1, first_frame=True)
    only = read(tmp_path, faulty.frames("PNG"), rules)
    assert only.notes == ("the first of 5 frames",)
    assert only.pixels == read(tmp_path, encoded(picture(0))).pixels


def test_a_cameras_multi_picture_jpeg_is_no_animation(tmp_path):
    only = read(tmp_path, faulty.frames("MPO", 2))
    assert only.notes == ("the first of 2 frames",)


class TestOrientation:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
    def test_applied(self, tmp_path, kind):
        image = Image.new("RGB", (128, 64))
        image.paste(picture(1, (70, 30)), (25, 5))
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[ORIENTATION] = orientation
            (tmp_path / f"{orientation}.jpg").write_bytes(encoded(image, kind, exif=exif))
        pictures = check_folder(tmp_path, SMALL).pictures
        assert len({one.pixels for one in pictures}) == 8
        for orientation, one in enumerate(pictures, start=1):
            lying = Image.open(io.BytesIO(encoded(image, kind)))
            lying.getexif()[ORIENTATION] = orientation
            upright = ImageOps.exif_transpose(lying)
            assert one.size == upright.size == ((128, 64) if orientation < 5 else (64, 128))
            assert one.pixels == ImageOps.fit(upright, (64, 64), Image.Resampling.LANCZOS).tobytes()
            assert one.notes == ()

    def test_phones_turn_pictures_in_their_own_way(self, tmp_path):
        files.decoders()
        image = Image.new("RGB", (128, 64), "white")
        image.paste((200, 0, 0), (0, 0, 40, 30))
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[ORIENTATION] = orientation
            only = read(tmp_path, encoded(image, "HEIF", exif=exif.tobytes(), quality=95))
            lying = image.copy()
            lying.getexif()[ORIENTATION] = orientation
            upright = ImageOps.fit(ImageOps.exif_transpose(lying), (64, 64), Image.Resampling.LANCZOS)
            shown = np.frombuffer(only.pixels, np.uint8).reshape(64, 64, 3)
            assert np.abs(shown.astype(int) - np.asarray(upright)).mean() < 4

    @pytest.mark.parametrize(
        "block", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\0\1"]
    )
    def test_damaged_exif_costs_no_picture(self, tmp_path, block):
        only = read(tmp_path, encoded(picture(1), "JPEG", exif=block))
        assert only.pixels == read(tmp_path, encoded(picture(1), "JPEG")).pixels


class TestColours:
    def test_wide_gamut(self, tmp_path):
        left, right = (180, 120, 90), (60, 140, 110)
        only = read(tmp_path, encoded(halves(left, right), icc_profile=faulty.wide_profile()))
        assert only.notes == ("colours converted to sRGB by its profile",)
        for column, colour in ((8, left), (56, right)):
            expected = faulty.wide_to_srgb(colour)
            assert abs(expected - colour).max() > 8
            assert abs(levels(only)[32, column] - expected).max() <= 2

    def test_wide_gamut_in_a_palette_and_under_transparency(self, tmp_path):
        flat = halves((180, 120, 90), (60, 140, 110))
        expected = faulty.wide_to_srgb((180, 120, 90))
        for image in (flat.quantize(2), flat.convert("RGBA")):
            only = read(tmp_path, encoded(image, icc_profile=faulty.wide_profile()))
            assert abs(levels(only)[32, 8] - expected).max() <= 2

    def test_an_srgb_profile_changes_nothing(self, tmp_path):
        image = picture(1, (64, 64))
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        only = read(tmp_path, encoded(image, icc_profile=srgb))
        assert only.notes == ()
        assert only.pixels == image.tobytes()

    @pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
    def test_cmyk_with_a_profile(self, tmp_path, kind):
        lab = (60.0, -30.0, -35.0)
        image = halves((255, 0, 0, 0), (0, 0, 0, 255), "CMYK")
        only = read(tmp_path, encoded(image, kind, icc_profile=faulty.cmyk_profile(lab)))
        assert only.notes == ("CMYK converted to sRGB by its profile",)
        expected = faulty.lab_to_srgb(*lab)
        # Without the profile full cyan would be (0, 255, 255).
        assert abs(expected - (0, 255, 255)).max() > 50
        assert abs(levels(only)[32, 8] - expected).max() <= 4

    def test_cmyk_without_a_profile(self, tmp_path):
        only = read(tmp_path, encoded(halves((255, 0, 0, 0), (0, 0, 0, 255), "CMYK"), "TIFF"))
        assert only.notes == ("CMYK without a colour profile: colours are approximate",)
        assert levels(only)[32, 8].tolist() == [0, 255, 255]

    def test_a_damaged_profile_is_ignored_and_noted(self, tmp_path):
        image = picture(1, (64, 64))
        only = read(tmp_path, encoded(image, icc_profile=b"no profile at all"))
        assert only.notes == ("its colour profile is damaged: ignored",)
        assert only.pixels == image.tobytes()

    def test_a_profile_for_other_colours_is_ignored_and_noted(self, tmp_path):
        image = picture(1, (64, 64))
        only = read(tmp_path, encoded(image, icc_profile=faulty.cmyk_profile((50, 0, 0))))
        assert only.notes == ("its colour profile is for another kind of picture: ignored",)
        assert only.pixels == image.tobytes()

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "big-endian TIFF"])
    def test_16_bit_gray_is_scaled(self, tmp_path, kind):
        deep = np.linspace(0, 65535, 64 * 64).round().reshape(64, 64).astype(np.uint16)
        if kind == "big-endian TIFF":
            data = encoded(Image.frombytes("I;16B", (64, 64), deep.astype(">u2").tobytes()), "TIFF")
            assert data.startswith(b"MM")
        else:
            data = encoded(Image.fromarray(deep), kind)
        only = read(tmp_path, data)
        assert only.notes == ("16-bit gray scaled to 8 bits",)
        expected = np.round(deep / 257).astype(int)
        assert abs(levels(only) - expected[..., None]).max() <= 1
        assert abs(levels(only).mean() - 127.5) < 1

    @pytest.mark.parametrize("mode", ["1", "L", "P"])
    def test_gray_and_palettes(self, tmp_path, mode):
        image = picture(1, (64, 64)).convert(mode)
        only = read(tmp_path, encoded(image))
        assert only.notes == ()
        assert only.pixels == image.convert("RGB").tobytes()

    def test_alpha_on_white(self, tmp_path):
        image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
        image.paste((0, 0, 200, 255), (0, 0, 20, 64))
        image.paste((0, 0, 200, 128), (20, 0, 40, 64))
        only = read(tmp_path, encoded(image))
        assert only.notes == ("transparent parts shown on white",)
        assert levels(only)[32, [10, 30, 50]].tolist() == [[0, 0, 200], [127, 127, 227], [255, 255, 255]]

    def test_gray_with_alpha(self, tmp_path):
        image = Image.new("LA", (64, 64), (0, 0))
        image.paste((90, 255), (0, 0, 32, 64))
        only = read(tmp_path, encoded(image))
        assert only.notes == ("transparent parts shown on white",)
        assert levels(only)[32, [10, 50]].tolist() == [[90] * 3, [255] * 3]

    @pytest.mark.parametrize("kind", ["PNG", "GIF"])
    def test_a_transparent_entry_of_a_palette(self, tmp_path, kind):
        image = halves(3, 7, "P")
        image.putpalette([level for entry in range(256) for level in (entry, 10, 20)])
        only = read(tmp_path, encoded(image, kind, transparency=7))
        assert only.notes == ("transparent parts shown on white",)
        assert levels(only)[32, [10, 50]].tolist() == [[3, 10, 20], [255] * 3]

    def test_a_transparent_colour(self, tmp_path):
        image = halves((9, 9, 9), (255, 0, 0))
        only = read(tmp_path, encoded(image, transparency=(255, 0, 0)))
        assert levels(only)[32, [10, 50]].tolist() == [[9] * 3, [255] * 3]

    def test_an_alpha_channel_without_transparency_is_not_noted(self, tmp_path):
        assert read(tmp_path, encoded(picture(1).convert("RGBA"))).notes == ()


class TestFolder:
    def test_junk_is_ignored_and_counted(self, tmp_path):
        good_folder(tmp_path)
        for name in ("._good0.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.jpg"):
            (tmp_path / name).write_bytes(b"junk")
        (tmp_path / ".git").mkdir()
        os.mkfifo(tmp_path / "._pipe.jpg")
        checked = check_folder(tmp_path, SMALL)
        assert (len(checked.pictures), checked.ignored, checked.notes) == (3, 7, ())

    def test_the_same_pixels_count_once(self, tmp_path):
        good_folder(tmp_path)
        (tmp_path / "z copy.png").write_bytes((tmp_path / "good0.png").read_bytes())
        (tmp_path / "z other format.tif").write_bytes(encoded(picture(1), "TIFF"))
        exif = Image.Exif()
        exif[ORIENTATION] = 3
        (tmp_path / "z turned.png").write_bytes(encoded(picture(2).rotate(180), exif=exif))
        checked = check_folder(tmp_path, SMALL)
        assert [one.path.name for one in checked.pictures] == ["good0.png", "good1.png", "good2.png"]
        assert checked.notes == (
            f"{tmp_path / 'z copy.png'}: the same pixels as good0.png, counted once",
            f"{tmp_path / 'z other format.tif'}: the same pixels as good1.png, counted once",
            f"{tmp_path / 'z turned.png'}: the same pixels as good2.png, counted once",
        )

    def test_the_same_middle_of_different_pictures_counts_twice(self, tmp_path):
        image = picture(1, (128, 64))
        for index in range(3):
            image.putpixel((0, index), (0, 0, 0))
            (tmp_path / f"{index}.png").write_bytes(encoded(image))
        assert len(check_folder(tmp_path, SMALL).pictures) == 3

    def test_folders_inside_are_named_and_not_looked_into(self, tmp_path):
        good_folder(tmp_path)
        good_folder(tmp_path / "heldout")
        checked = check_folder(tmp_path, SMALL)
        assert len(checked.pictures) == 3
        assert checked.notes == ("not looked into: heldout",)

    def test_nothing_changes_and_nothing_is_written(self, tmp_path, monkeypatch):
        scratch = tmp_path / "tmp"
        scratch.mkdir()
        for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME"):
            monkeypatch.setenv(name, str(scratch))
        folder = good_folder(tmp_path / "photos")
        (folder / "wide.tif").write_bytes(encoded(picture(5), "TIFF", compression="tiff_lzw"))
        monkeypatch.chdir(scratch)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        check_folder(folder, SMALL)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before

    def test_progress(self, tmp_path):
        good_folder(tmp_path)
        seen = []
        check_folder(tmp_path, SMALL, progress=lambda done, total: seen.append((done, total)))
        assert seen == [(1, 3), (2, 3), (3, 3)]


class TestPhotographic:
    def test_drawings_are_not(self, tmp_path):
        for index in range(3):
            image = picture(index, (64, 64)).quantize(40).convert("RGB")
            (tmp_path / f"{index}.png").write_bytes(encoded(image))
        assert not check_folder(tmp_path, SMALL).photographic

    def test_rich_colours_are(self, tmp_path):
        rng = np.random.default_rng(0)
        for index in range(3):
            grain = rng.normal(0, 6, (320, 320, 3)) + np.asarray(picture(index, (320, 320)))
            image = Image.fromarray(grain.clip(0, 255).astype(np.uint8))
            (tmp_path / f"{index}.jpg").write_bytes(encoded(image, "JPEG"))
        assert check_folder(tmp_path, SMALL).photographic

    @pytest.mark.skipif(not PHOTOGRAPHS, reason="CONCEPTCTL_PHOTOS names no folder of folders of photographs")
    def test_photographs(self):
        folders = [path for path in Path(PHOTOGRAPHS).iterdir() if path.is_dir()]
        assert folders
        for folder in folders:
            checked = check_folder(folder, Rules(side=512))
            assert checked.photographic
            assert checked.refusals == ()
