"""One picture file to upright sRGB pixels of some size. Runs in the child process, where a decoder may do its worst."""

import errno
import hashlib
import io
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from PIL import ExifTags, Image, ImageChops, ImageCms, ImageOps, ImageStat

from conceptctl.errors import PicturesRefused
from conceptctl.images import files
from conceptctl.images.buckets import ENOUGH, Size, bucket_of, cover, enlarges
from conceptctl.images.profiles import png_profile

FULL_PIXELS = 50_000_000
"""What is decoded in full size; of a larger picture a whole number of pixels becomes one, before anything else."""
MOST_PIXELS = {"JPEG": 1_000_000_000, "WEBP": 100_000_000, "AVIF": 100_000_000, "HEIF": 150_000_000}
"""What memory holds of each format while it is decoded; a JPEG is decoded at a fraction of its size."""
MOST_OTHERWISE = 200_000_000
MOST_IN_SCANS = 250_000_000
"""Of a progressive JPEG, whose decoder holds all of it until the last scan."""
WIDEST = 4
"""Longer side over shorter side: beyond it the square shows too little of a picture, and no bucket is as long."""

SAME_LEVEL = 2
"""Levels by which one colour may vary and still be one: what resampling and JPEG make of it."""
SRGB_LEVELS = 3
"""Levels by which a profile may differ from sRGB and still be it: vendors' versions of sRGB differ by less."""
PHOTO_COLOURS = 640
"""More colours than this in a 64 x 64 thumbnail speak for a photograph.

Of 31 photographs of objects and animals the plainest has 874; of 160 pictures of the bundled world the richest has
523. Drawings that went through JPEG or a smooth enlargement can have as many as photographs.
"""

_DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders are known to raise on damaged files."""

_GRAY16 = ("I;16", "I;16B", "I;16L", "I;16N")
_GRAY = ("1", "L", "LA", "La")
_MODES = (*_GRAY, *_GRAY16, "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr")
_AVERAGED = ("L", "RGB", "RGBA", "CMYK")
"""Modes whose levels can be averaged as they are."""
_ICC_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}

_SUBFILE_TYPE, _PHOTOMETRIC, _DNG_VERSION = 254, 262, 50706
_COLOUR_FILTER_ARRAY = 32803


@dataclass(frozen=True)
class Wanted:
    """What a picture must be, and become."""

    side: int
    """Side of the square, in pixels."""
    min_side: int
    """Shorter side a picture must have."""
    first_frame: bool
    """Take the first frame of an animation instead of refusing it."""
    step: int = 0
    """Sides of other pictures than the square are multiples of it; 0 where all become squares."""
    longest: int | None = None
    """No side becomes longer; None for any."""

    def bucket(self, size: Size) -> Size:
        """What a picture of some size becomes; see `buckets.bucket_of`."""
        return bucket_of(size, self.side, self.step, self.longest)


@dataclass(frozen=True)
class Cropped:
    """The middle of a picture, at the wanted size."""

    pixels: bytes
    """(height, width, 3), sRGB, 8 bits."""
    size: tuple[int, int]
    """Width and height of the whole upright picture."""
    digest: str
    """SHA-256 of the whole upright sRGB picture: equal for the same pixels in any format."""
    photographic: bool
    """It has as many colours as photographs have."""
    notes: tuple[str, ...]
    """What was done to it beyond cropping and scaling."""


def read_cropped(file: BinaryIO, wanted: Wanted) -> Cropped:
    """Decode a file that is open at its beginning.

    Raises:
        PicturesRefused: It breaks a rule; the message is the reason alone.
        MemoryError: It needs more memory than the process may have.
    """
    with _damage_refused():
        name = files.picture_format(file.read(files.HEAD))
        with _opened(file, name) as header:
            notes = _check_header(header, wanted)
            if name == "PNG":
                # Decoding alone skips the checksums of the pixel data.
                header.verify()
        with _opened(file, name) as picture:
            whole, size = _upright_srgb(picture, notes)
        return _cropped(whole, size, wanted, notes)


@contextmanager
def _damage_refused() -> Iterator[None]:
    try:
        yield
    except PicturesRefused:
        raise
    except _DAMAGE as error:
        # A seek to where a damaged file points to is no fault of the disk.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise PicturesRefused(f"cannot be read: {error.strerror}") from error
        cut = "truncated" in str(error).lower()
        raise PicturesRefused("damaged: it ends too early" if cut else "damaged") from error


def _opened(file: BinaryIO, name: str) -> Image.Image:
    # The size is judged by the rules here; Pillow's own check warns at some sizes and raises at others.
    Image.MAX_IMAGE_PIXELS = None
    file.seek(0)
    return Image.open(file, formats=[name])


def _check_header(picture: Image.Image, wanted: Wanted) -> list[str]:
    """Refuse by what is known before decoding; return what is to be noted."""
    width, height = picture.size
    name = "JPEG" if picture.format == "MPO" else str(picture.format)
    most = MOST_IN_SCANS if picture.info.get("progressive") else MOST_PIXELS.get(name, MOST_OTHERWISE)
    if width * height > most:
        smaller = "save it smaller" if name == "JPEG" else "save it smaller, or as JPEG"
        raise PicturesRefused(
            f"{width} x {height} pixels: memory holds {most // 1_000_000} megapixels of a {name} picture; {smaller}"
        )
    _check_levels(picture)
    notes = _check_frames(picture, wanted)
    if min(width, height) < wanted.min_side:
        raise PicturesRefused(f"{width} x {height} pixels: too small, the shorter side must have {wanted.min_side}")
    if max(width, height) > WIDEST * min(width, height):
        raise PicturesRefused(f"{width} x {height} pixels: more than {WIDEST} times as long as wide")
    if enlarges(picture.size, wanted.bucket(picture.size)):
        about = f"the base's own pictures are {wanted.side} x {wanted.side} pixels"
        notes.append(f"enlarged: {f'about {wanted.side**2} pixels are learned from' if wanted.step else about}")
    return notes


def _check_frames(picture: Image.Image, wanted: Wanted) -> list[str]:
    frames = getattr(picture, "n_frames", 1)
    if frames == 1:
        return []
    # A camera's multi-picture JPEG holds the photograph and then previews or depth: no animation.
    if not wanted.first_frame and picture.format != "MPO":
        raise PicturesRefused(f"{frames} frames; --first-frame takes the first one")
    return [f"the first of {frames} frames"]


def _check_levels(picture: Image.Image) -> None:
    tags = getattr(picture, "tag_v2", {})
    reduced = isinstance(tags.get(_SUBFILE_TYPE), int) and tags[_SUBFILE_TYPE] & 1
    if reduced or _DNG_VERSION in tags or tags.get(_PHOTOMETRIC) == _COLOUR_FILTER_ARRAY:
        # What opens here is the thumbnail that such files begin with.
        raise PicturesRefused("a camera's raw file: save it as JPEG or PNG")
    if picture.mode in ("F", "I"):
        kind = "floating-point" if picture.mode == "F" else "32-bit or signed"
        raise PicturesRefused(f"{kind} levels, whose black and white are unknown: save it with 8 or 16 bits")
    if picture.mode not in _MODES:
        raise PicturesRefused(f"{picture.mode} colours are not read: save it as RGB")


def _upright_srgb(picture: Image.Image, notes: list[str]) -> tuple[Image.Image, tuple[int, int]]:
    """Return the whole picture, reduced where it is very large, and its own upright size."""
    width, height = picture.size
    times = math.ceil((width * height / FULL_PIXELS) ** 0.5)
    if times > 1:
        notes.append(f"{width * height / 1e6:.0f} megapixels, read at a fraction of its size")
        # A JPEG's decoder makes halves, quarters and eighths of it itself, at a fraction of the memory.
        picture.draft(None, (width // times, height // times))
    picture.load()
    profile = picture.info.get("icc_profile") or _said_profile(picture, notes)
    decoded = picture.size
    _turn_upright(picture, notes)
    turned = picture.size != decoded
    plain = _to_plain(_reduced(picture), notes)
    return _to_srgb(plain, profile, notes), (height, width) if turned else (width, height)


def _reduced(picture: Image.Image) -> Image.Image:
    """Average what is still too large to work on, as it lies in memory."""
    times = math.ceil((picture.width * picture.height / FULL_PIXELS) ** 0.5)
    if times == 1:
        return picture
    if picture.mode not in _AVERAGED:
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    return picture.reduce(times)


def _said_profile(picture: Image.Image, notes: list[str]) -> bytes | None:
    try:
        if picture.format != "PNG":
            return None
        info: dict[str, object] = {
            name: picture.info[name] for name in ("gamma", "chromaticity", "srgb") if name in picture.info
        }
        return png_profile(info, gray=picture.mode in (*_GRAY, *_GRAY16))
    except ValueError:
        notes.append("its gamma or its primaries cannot be: ignored")
        return None


def _turn_upright(picture: Image.Image, notes: list[str]) -> None:
    try:
        turned = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except _DAMAGE:
        notes.append("its EXIF data is damaged: taken as it lies")
        return
    if turned:
        # Left in place, the blocks would be written anew, which a damaged one does not survive.
        for block in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"):
            picture.info.pop(block, None)
        ImageOps.exif_transpose(picture, in_place=True)


def _to_plain(picture: Image.Image, notes: list[str]) -> Image.Image:
    """Return the picture with 8 bits a channel and without transparency, in gray, RGB or CMYK."""
    if picture.mode in _GRAY16:
        notes.append("16-bit gray scaled to 8 bits")
        # `convert` alone clips everything above 255.
        return picture.convert("I").point(lambda level: level * (1 / 257) + 0.5).convert("L")
    if picture.mode == "CMYK":
        return picture
    mode = "L" if picture.mode in _GRAY else "RGB"
    if not picture.has_transparency_data:
        return picture.convert(mode)
    picture = picture.convert("RGBA")
    alpha = picture.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return picture.convert(mode)
    notes.append("transparent parts shown on white")
    page = Image.new("RGB", picture.size, "white")
    page.paste(picture, mask=alpha)
    return page.convert(mode)


def _to_srgb(plain: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    if not profile:
        if plain.mode == "CMYK":
            notes.append("CMYK without a colour profile: colours are approximate")
        return plain.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _ICC_SPACES[plain.mode]:
            notes.append("its colour profile is for another kind of picture: ignored")
            return plain.convert("RGB")
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            plain.mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):
        notes.append("its colour profile is damaged: ignored")
        return plain.convert("RGB")
    if _is_srgb(transform, plain.mode):
        return plain.convert("RGB")
    notes.append(f"{plain.mode if plain.mode == 'CMYK' else 'colours'} converted to sRGB by its profile")
    converted = ImageCms.applyTransform(plain, transform)
    assert converted is not None
    return converted


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Tell whether a transform leaves colours alone: most profiles in photographs are sRGB under some name."""
    if mode == "CMYK":
        return False
    steps = range(0, 256, 15)
    if mode == "L":
        probe = Image.frombytes("L", (len(steps), 1), bytes(steps))
    else:
        colours = bytes(level for red in steps for green in steps for blue in steps for level in (red, green, blue))
        probe = Image.frombytes("RGB", (len(steps) ** 2, len(steps)), colours)
    moved = ImageCms.applyTransform(probe, transform)
    assert moved is not None
    shift = ImageStat.Stat(ImageChops.difference(moved, probe.convert("RGB")))
    return all(high <= SRGB_LEVELS for _, high in shift.extrema)


def _cropped(whole: Image.Image, size: Size, wanted: Wanted, notes: list[str]) -> Cropped:
    bucket = wanted.bucket(size)
    middle = ImageOps.fit(whole, bucket, Image.Resampling.LANCZOS)
    if all(high - low <= SAME_LEVEL for low, high in ImageStat.Stat(middle).extrema):
        raise PicturesRefused("one colour all over the part that would be learned from")
    if wanted.step and (share := cover(size, bucket)) < ENOUGH:
        notes.append(f"cut to its middle: {100 * share:.0f} % of it is learned from")
    thumbnail = middle.resize((64, 64), Image.Resampling.LANCZOS)
    colours = len(thumbnail.getcolors(64 * 64) or ())
    digest = hashlib.sha256(f"{whole.width} x {whole.height}:".encode())
    digest.update(whole.tobytes())
    return Cropped(middle.tobytes(), size, digest.hexdigest(), colours > PHOTO_COLOURS, tuple(notes))
