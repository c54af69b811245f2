"""What stands beside pictures: what phones, systems and trainers leave there is no reason to refuse a folder."""

import os

import numpy as np
import pytest
from PIL import Image

from conceptctl.errors import PicturesRefused
from conceptctl.images.gate import Rules, check_folder
from conceptctl.images.listing import list_folder
from tests.images.faulty import container, encoded, good_folder, picture

SMALL = Rules(side=64, min_side=64)
VIDEO = container(b"qt  ")
RAW = encoded(picture(8), "TIFF", tiffinfo={254: 1})


@pytest.fixture
def folder(tmp_path):
    return good_folder(tmp_path / "photos")


@pytest.mark.parametrize(
    "name",
    [
        "good0.AAE",
        "good0.xmp",
        "good0.png.xmp",
        "good0.png:Zone.Identifier",
        "good0.MOV:Zone.Identifier",
        "good0.png\uf03aZone.Identifier",
        "good0.png:Zone.Identifier:$DATA",
        "good0.png:com.dropbox.attrs",
        "good0.png.json",
        "good0.png.supplemental-metadata.json",
        "good0.png.suppl.json",
        "metadata.json",
        "good0_0512x0512_sd.npz",
        "good0_te_outputs.safetensors",
        "latents.pt",
        "aspect_ratio_bucket_indices_photos.json",
        "dataset.toml",
        "multidatabackend.yaml",
        "Thumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "@eaDir",
        "._good0.png",
        ".picasa.ini",
        "README.md",
        "Where I found it.url",
        "good0.pp3",
        "good0.THM",
    ],
)
def test_ignored_and_counted(folder, name):
    (folder / name).write_bytes(b"\0\1\2 whatever")
    found = list_folder(folder, follow=False)
    assert ([path.name for path in found.candidates], found.ignored) == (["good0.png", "good1.png", "good2.png"], 1)


@pytest.mark.parametrize(
    ("name", "data"),
    [("good0.MOV", VIDEO), ("GOOD0.mp4", VIDEO), ("x.MP", VIDEO), ("good0.dng", RAW), ("good0.CR2", RAW)],
)
def test_the_same_photograph_once_more(folder, name, data):
    (folder / "x.MP.jpg").write_bytes(encoded(picture(4), "JPEG"))
    (folder / name).write_bytes(data)
    found = list_folder(folder, follow=False)
    assert (len(found.candidates), found.ignored) == (4, 1)
    # Alone it may be what the user meant by a picture.
    (folder / name).rename(folder / f"alone.{name.rpartition('.')[2]}")
    with pytest.raises(PicturesRefused, match=r"alone\.\w+: .*(video|raw file)"):
        check_folder(folder, SMALL)


def test_what_is_left_out_is_said_in_a_line(folder):
    for name in ("good0.AAE", "good1.aae", "good0.json"):
        (folder / name).touch()
    assert check_folder(folder, SMALL).notes == ("beside the pictures and not read: 3 of .aae, .json",)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "meta_cap.json", "captions.json"])
def test_captions_of_all_pictures_in_one_file_are_said_not_to_be_read(folder, name):
    (folder / name).write_text('{"file_name": "good0.png", "text": "sks dog"}\n')
    said = f"captions in one file are not read: {name}; photo.jpg has its own in photo.txt"
    assert list_folder(folder, follow=False).notes[-1] == said


def test_masks_are_not_learned_from(folder):
    mask = Image.fromarray(np.indices((80, 96)).sum(0).astype(np.uint8))
    mask.save(folder / "good0-masklabel.png")
    # Without the picture that it masks it is one itself.
    mask.rotate(180).save(folder / "other-masklabel.png")
    checked = check_folder(folder, SMALL)
    assert [one.path.name for one in checked.pictures][3:] == ["other-masklabel.png"]
    assert checked.notes == ("masks are not used: good0-masklabel.png",)


def test_a_colon_in_a_name_is_no_stream(folder):
    (folder / "at 12:30.jpg").write_bytes(encoded(picture(7), "JPEG"))
    assert len(check_folder(folder, SMALL).pictures) == 4


def test_a_folder_of_nothing_but_what_is_beside_pictures(tmp_path):
    for name in ("IMG_1.AAE", "readme.txt", "metadata.jsonl"):
        (tmp_path / name).write_text("{token}")
    with pytest.raises(PicturesRefused, match="no picture in"):
        check_folder(tmp_path, SMALL)


def test_nothing_beside_pictures_is_opened_that_is_no_file(folder):
    for name in ("pipe.txt", "pipe.json", "pipe.AAE"):
        os.mkfifo(folder / name)
    assert check_folder(folder, SMALL).ignored == 3


def test_what_was_done_to_pictures_is_said_once(folder):
    for index in range(5):
        (folder / f"clear{index}.png").write_bytes(
            encoded(Image.merge("RGBA", [*picture(20 + index).split(), picture(3, mode="L")]))
        )
    assert check_folder(folder, SMALL).notes == (
        "clear0.png, clear1.png, clear2.png and 2 more: transparent parts shown on white",
    )
