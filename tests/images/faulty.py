"""Picture files, good and bad, made from nothing."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

WIDE_PRIMARIES = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
"""XYZ of Adobe RGB's red, green and blue, as seen in a profile (D50)."""
SRGB_PRIMARIES = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
WIDE_GAMMA = 563 / 256
D50 = (0.9642, 1.0, 0.8249)


def picture(seed: int = 0, size: tuple[int, int] = (96, 80), mode: str = "RGB") -> Image.Image:
    """Return smooth random colours: a different picture for each seed."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, name: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def good_folder(folder: Path, count: int = 3) -> Path:
    folder.mkdir(exist_ok=True)
    for index in range(count):
        (folder / f"good{index}.png").write_bytes(encoded(picture(index)))
    return folder


def halves(left, right, mode: str = "RGB", size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Return a picture of two colours side by side."""
    image = Image.new(mode, size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image


def frames(name: str, count: int = 5) -> bytes:
    pictures = [picture(index) for index in range(count)]
    return encoded(pictures[0], name, save_all=True, append_images=pictures[1:])


def png_of_size(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds next to nothing of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def slow_jpeg(side: int = 4000, scans: int = 600) -> bytes:
    """Return a small JPEG whose last scan stands in it hundreds of times: each goes over the whole picture again."""
    data = encoded(Image.new("L", (side, side), 9), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * scans + data[-2:]


def box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", 8 + len(data)) + kind + data


def container(brand: bytes, *others: bytes) -> bytes:
    """Return what HEIC, AVIF, CR3 and MP4 files begin with."""
    return box(b"ftyp", brand + b"\0\0\0\0" + b"".join(others)) + box(b"meta", bytes(64))


def fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def profile(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Return an ICC profile."""
    text = b"made by a test\0"
    described = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(4 + 4 + 2 + 1 + 67)
    tags = {b"desc": described, b"cprt": b"text" + bytes(4) + text, b"wtpt": b"XYZ " + bytes(4) + fixed(*D50), **tags}
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"\0\0\0\0", 0x02400000, kind, space, connection)
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + fixed(*D50)
    return head.ljust(128, b"\0") + table + body


def wide_profile() -> bytes:
    """Return a profile with the primaries and the gamma of Adobe RGB."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(WIDE_GAMMA * 256))
    tags = {letter + b"TRC": curve for letter in (b"r", b"g", b"b")}
    for letter, primary in zip((b"r", b"g", b"b"), WIDE_PRIMARIES, strict=True):
        tags[letter + b"XYZ"] = b"XYZ " + bytes(4) + fixed(*primary)
    return profile(b"RGB ", b"XYZ ", tags)


def cmyk_profile(full_cyan: tuple[float, float, float]) -> bytes:
    """Return a profile in which full cyan alone has the given Lab colour, and all other ink dims to gray."""
    nodes = bytearray()
    for index in range(16):
        ink = index.bit_count()
        lightness, a, b = full_cyan if index == 0b1000 else (100 - 25 * ink, 0.0, 0.0)
        nodes += bytes([round(lightness * 2.55), round(a) + 128, round(b) + 128])
    straight = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return profile(b"CMYK", b"Lab ", {b"A2B0": table + straight * 4 + bytes(nodes) + straight * 3})


def xyz_to_srgb(xyz) -> np.ndarray:
    """Return the sRGB levels of a colour given as XYZ (D50), by the standard's formula."""
    linear = np.clip(np.linalg.solve(np.array(SRGB_PRIMARIES).T, np.asarray(xyz, float)), 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def wide_to_srgb(levels) -> np.ndarray:
    linear = (np.asarray(levels, float) / 255) ** WIDE_GAMMA
    return xyz_to_srgb(linear @ np.array(WIDE_PRIMARIES))


def lab_to_srgb(lightness: float, a: float, b: float) -> np.ndarray:
    y = (lightness + 16) / 116
    roots = np.array([y + a / 500, y, y - b / 200])
    return xyz_to_srgb(np.array(D50) * np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29)))
