"""Colour profiles made of what a PNG says of its colours in two small chunks: a power, and where its primaries lie."""

import struct
from collections.abc import Mapping, Sequence

Row = tuple[float, float, float]
Matrix = tuple[Row, Row, Row]

SRGB_GAMMA = 1 / 2.2
SAME_GAMMA = 0.05
"""By how much, relatively, a power may differ from 1 / 2.2 and mean sRGB's own curve: libpng's threshold."""
_SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
"""White, red, green, blue, x and y of each, as `cHRM` has them."""
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD: Matrix = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def png_profile(info: Mapping[str, object], gray: bool) -> bytes | None:
    """Return an ICC profile for what a PNG's `gAMA` and `cHRM` say, or None where they say nothing else than sRGB.

    Args:
        info: Pillow's, of a picture without a profile of its own.
        gray: It has one channel.

    Raises:
        ValueError: What they say cannot be.
    """
    gamma, primaries = info.get("gamma"), info.get("chromaticity")
    if "srgb" in info or (gamma is None and primaries is None):
        return None
    power = float(gamma) if isinstance(gamma, float) else SRGB_GAMMA
    if not 0.05 <= power <= 5:
        raise ValueError("no display has such a power")
    is_srgb = abs(power / SRGB_GAMMA - 1) < SAME_GAMMA
    curve = _parametric(3, *_SRGB_CURVE) if is_srgb else _parametric(0, 1 / power)
    if gray:
        return None if is_srgb else _profile(b"GRAY", {b"kTRC": curve})
    found = primaries if isinstance(primaries, tuple) and len(primaries) == len(_SRGB) else _SRGB
    if is_srgb and found == _SRGB:
        return None
    columns = _transposed(_to_d50([float(each) for each in found]))
    tags = {letter + b"TRC": curve for letter in (b"r", b"g", b"b")}
    for letter, column in zip((b"r", b"g", b"b"), columns, strict=True):
        tags[letter + b"XYZ"] = _xyz(column)
    return _profile(b"RGB ", tags)


def _to_d50(points: Sequence[float]) -> Matrix:
    """The matrix from linear RGB to XYZ as seen under D50, by Bradford's adaptation."""
    white, *primaries = (_from_xy(points[at], points[at + 1]) for at in range(0, 8, 2))
    directions = _transposed((primaries[0], primaries[1], primaries[2]))
    to_xyz = _scaled(directions, _times(_inverse(directions), white))
    seen, wanted = _times(_BRADFORD, white), _times(_BRADFORD, _D50)
    ratios = (wanted[0] / seen[0], wanted[1] / seen[1], wanted[2] / seen[2])
    adapted = _product(_scaled(_inverse(_BRADFORD), ratios), _BRADFORD)
    return _product(adapted, to_xyz)


def _from_xy(x: float, y: float) -> Row:
    if not 0 < y <= 1 or not 0 <= x <= 1:
        raise ValueError("no colour lies there")
    return x / y, 1.0, (1 - x - y) / y


def _times(matrix: Matrix, row: Row) -> Row:
    first, second, third = (sum(a * b for a, b in zip(each, row, strict=True)) for each in matrix)
    return first, second, third


def _transposed(matrix: Matrix) -> Matrix:
    first, second, third = zip(*matrix, strict=True)
    return first, second, third


def _product(left: Matrix, right: Matrix) -> Matrix:
    first, second, third = (_times(left, column) for column in _transposed(right))
    return _transposed((first, second, third))


def _scaled(matrix: Matrix, factors: Row) -> Matrix:
    """Multiply each column by its factor."""
    first, second, third = (tuple(a * b for a, b in zip(row, factors, strict=True)) for row in matrix)
    return first, second, third  # type: ignore[return-value]


def _inverse(matrix: Matrix) -> Matrix:
    (a, b, c), (d, e, f), (g, h, i) = matrix
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    if abs(determinant) < 1e-6:
        raise ValueError("the primaries lie on one line")
    cofactors = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    return _scaled(cofactors, (1 / determinant,) * 3)


def _fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _xyz(row: Row) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*row)


def _parametric(kind: int, *numbers: float) -> bytes:
    return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + _fixed(*numbers)


def _profile(space: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    """Put an ICC 4 display profile together (ICC.1:2010, section 7)."""
    text = "made of gAMA and cHRM".encode("utf-16-be")
    said = b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(text), 28) + text
    every = {b"desc": said, b"cprt": said, b"wtpt": _xyz(_D50), **tags}
    table, body = struct.pack(">I", len(every)), b""
    start = 128 + 4 + 12 * len(every)
    for name, data in every.items():
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x04200000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + _fixed(*_D50)
    return head.ljust(128, b"\0") + table + body
