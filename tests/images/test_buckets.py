"""Aspect-ratio buckets: how much of a picture they show, in numbers, and what is read into them."""

import numpy as np
import pytest
from PIL import Image

from conceptctl.images.buckets import ENOUGH, PictureSizes, bucket_of, cover
from conceptctl.images.gate import Rules, check_folder

STEP = 32
CAMERAS = {"3:4": (3024, 4032), "2:3": (4000, 6000), "9:16": (1080, 1920), "1:1": (2000, 2000), "4:5": (1080, 1350)}


@pytest.mark.parametrize("side", [512, 1024])
@pytest.mark.parametrize("name", CAMERAS)
@pytest.mark.parametrize("lies", [False, True])
def test_little_is_cut_off_a_photograph(side, name, lies):
    size = CAMERAS[name][::-1] if lies else CAMERAS[name]
    bucket = bucket_of(size, side, STEP)
    assert cover(size, bucket) >= ENOUGH
    assert bucket[0] % STEP == bucket[1] % STEP == 0
    # As many pixels as the square has, but for steps.
    assert 0.93 * side * side < bucket[0] * bucket[1] <= side * side


@pytest.mark.parametrize(("side", "least"), [(256, 0.93), (384, ENOUGH), (512, ENOUGH), (768, ENOUGH), (1024, ENOUGH)])
def test_little_is_cut_off_any_picture_that_is_taken(side, least):
    """Up to four times as long as wide; at the smallest sides steps are coarse."""
    for share in np.linspace(-1, 1, 201):
        size = round(5000 * 4 ** max(share, 0)), round(5000 * 4 ** max(-share, 0))
        bucket = bucket_of(size, side, STEP)
        assert cover(size, bucket) >= least
        assert side // 2 <= min(bucket) and max(bucket) <= 2 * side
        # The same lying and standing.
        assert bucket_of(size[::-1], side, STEP) == bucket[::-1]


@pytest.mark.parametrize("side", [256, 512, 1024])
def test_no_picture_is_enlarged_more_than_the_smallest_square(side):
    smallest = side // 2
    for longer in range(smallest, 4 * smallest + 1, 7):
        wide, high = bucket_of((smallest, longer), side, STEP)
        assert max(wide / smallest, high / longer) <= side / smallest


def test_where_there_are_no_steps_everything_is_a_square():
    assert {bucket_of(size, 64, 0) for size in CAMERAS.values()} == {(64, 64)}
    assert cover((300, 400), (64, 64)) == pytest.approx(0.75)


def test_resolutions_are_multiples_of_64_from_half_to_twice_the_bases_own():
    sizes = PictureSizes(512, STEP)
    assert [side for side in range(1, 2000) if sizes.takes(side)] == list(range(256, 1025, 64))
    assert [side for side in range(1, 2000) if PictureSizes(64).takes(side)] == [64]
    # A base's own is always one.
    assert PictureSizes(800, STEP).takes(800)


def ramps(size):
    """Red from left to right, and green from top to bottom, over all levels: colours say what was cut off."""
    wide, high = size
    pixels = np.zeros((high, wide, 3))
    pixels[:, :, 0] = np.linspace(0, 255, wide)
    pixels[:, :, 1] = np.linspace(0, 255, high)[:, None]
    return Image.fromarray(pixels.round().astype(np.uint8))


@pytest.mark.parametrize("size", [(600, 800), (1920, 1080), (700, 700), (300, 1200)])
def test_a_picture_is_read_into_its_bucket(tmp_path, size):
    ramps(size).save(tmp_path / "0.png")
    (only,) = check_folder(tmp_path, Rules(side=512, step=STEP)).pictures
    assert only.size == size
    assert only.bucket == bucket_of(size, 512, STEP)
    seen = np.asarray(only.image())
    assert seen.shape == (only.bucket[1], only.bucket[0], 3)
    red, green = (np.ptp(seen[..., channel].astype(int)) / 255 for channel in (0, 1))
    assert red * green == pytest.approx(cover(size, only.bucket), abs=0.02)
    # What is cut off is as much on both sides.
    assert seen[..., :2].reshape(-1, 2).mean(axis=0) == pytest.approx([127.5, 127.5], abs=1)


def test_one_that_a_phone_turned_is_read_standing(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    ramps((800, 600)).save(tmp_path / "0.jpg", exif=exif)
    (only,) = check_folder(tmp_path, Rules(side=512, step=STEP)).pictures
    assert (only.size, only.bucket) == ((600, 800), (448, 576))


def test_what_is_noted(tmp_path):
    ramps((256, 273)).save(tmp_path / "small.png")
    ramps((600, 640)).save(tmp_path / "between.png")
    checked = check_folder(tmp_path, Rules(side=256, step=STEP))
    assert [picture.bucket for picture in checked.pictures] == [(256, 256), (256, 256)]
    assert checked.notes == ("between.png, small.png: cut to its middle: 94 % of it is learned from",)
    (enlarged,) = check_folder_of(tmp_path / "one", (300, 400)).notes
    assert enlarged == "0.png: enlarged: about 262144 pixels are learned from"


def check_folder_of(folder, size):
    folder.mkdir()
    ramps(size).save(folder / "0.png")
    return check_folder(folder, Rules(side=512, step=STEP))


def test_no_side_is_longer_than_a_base_has_places_for():
    assert bucket_of((2000, 500), 512, STEP) == (1024, 256)
    bucket = bucket_of((2000, 500), 512, STEP, 768)
    assert max(bucket) <= 768 and cover((2000, 500), bucket) < ENOUGH
    sizes = PictureSizes(512, STEP, 768)
    assert sizes.most == 768 and sizes.takes(768) and not sizes.takes(832)
