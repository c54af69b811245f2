"""What PNG files say of their colours in `gAMA` and `cHRM`, against the formulas."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from conceptctl.images.gate import Rules, check_folder
from tests.images import faulty
from tests.images.faulty import encoded, halves

ADOBE = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def saying(data: bytes, gamma=None, primaries=None, srgb=False) -> bytes:
    """Put chunks behind a PNG's header."""
    said = chunk(b"gAMA", struct.pack(">I", round(gamma * 100_000))) if gamma is not None else b""
    if primaries:
        said += chunk(b"cHRM", struct.pack(">8I", *(round(each * 100_000) for each in primaries)))
    return data[:33] + (chunk(b"sRGB", b"\0") if srgb else b"") + said + data[33:]


def read(folder, data: bytes):
    (folder / "one.png").write_bytes(data)
    (only,) = check_folder(folder, Rules(side=64, min_side=64)).pictures
    return np.asarray(only.image()).astype(int)[32, 8], only.notes


def srgb(linear) -> np.ndarray:
    linear = np.asarray(linear, float)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(
    ("mode", "gamma"), [("RGB", 1.0), ("RGB", 1 / 1.8), ("RGB", 1 / 2.8), ("L", 0.7), ("P", 1.0), ("RGBA", 1 / 1.8)]
)
def test_a_power_is_undone(tmp_path, mode, gamma):
    colour = np.array([128, 128, 128] if mode == "L" else [200, 128, 60])
    image = halves(tuple(colour.tolist()), (30, 40, 50))
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    found, notes = read(tmp_path, saying(encoded(image), gamma))
    expected = srgb((colour / 255) ** (1 / gamma))
    assert abs(expected - colour).max() > 8
    assert abs(found - expected).max() <= 2
    assert notes == ("colours converted to sRGB by its profile",)


def test_linear_light_in_16_bit_gray(tmp_path):
    deep = np.full((64, 64), 32768, np.uint16)
    deep[:, 32:] = 0
    found, _ = read(tmp_path, saying(encoded(Image.fromarray(deep)), 1.0))
    assert abs(found - srgb(0.5)).max() <= 1


def test_primaries_are_honoured(tmp_path):
    """Adobe RGB said in two chunks is what its profile says."""
    colour = (60, 180, 110)
    image = halves(colour, (200, 30, 40))
    found, _ = read(tmp_path, saying(encoded(image), 256 / 563, ADOBE))
    assert abs(faulty.wide_to_srgb(colour) - colour).max() > 20
    assert abs(found - faulty.wide_to_srgb(colour)).max() <= 2


@pytest.mark.parametrize(
    "said",
    [
        {"gamma": 0.45455},
        {"gamma": 0.45455, "primaries": SRGB},
        {"gamma": 0.46},
        {"primaries": SRGB},
        {"gamma": 1.0, "primaries": ADOBE, "srgb": True},
        {},
    ],
)
def test_what_means_srgb_changes_nothing(tmp_path, said):
    image = faulty.picture(1, (64, 64))
    (tmp_path / "one.png").write_bytes(saying(encoded(image), **said))
    (only,) = check_folder(tmp_path, Rules(side=64, min_side=64)).pictures
    assert (only.pixels, only.notes) == (image.tobytes(), ())


def test_a_profile_has_the_last_word(tmp_path):
    image = faulty.picture(1, (64, 64))
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(image, icc_profile=own)
    (tmp_path / "one.png").write_bytes(saying(data, 1.0, ADOBE))
    (only,) = check_folder(tmp_path, Rules(side=64, min_side=64)).pictures
    assert (only.pixels, only.notes) == (image.tobytes(), ())


@pytest.mark.parametrize(
    "said", [{"gamma": 0.0}, {"gamma": 900.0}, {"primaries": (0.3, 0.3) * 4}, {"primaries": (0.0,) * 8}]
)
def test_nonsense_is_ignored_and_noted(tmp_path, said):
    image = faulty.picture(1, (64, 64))
    (tmp_path / "one.png").write_bytes(saying(encoded(image), **said))
    (only,) = check_folder(tmp_path, Rules(side=64, min_side=64)).pictures
    assert (only.pixels, only.notes) == (image.tobytes(), ("its gamma or its primaries cannot be: ignored",))
