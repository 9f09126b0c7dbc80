"""Decoding: from an image file to a square of bytes.

Whatever is in a file, its longer side is cut evenly at both ends, the rest is scaled to the size,
and colours are red, green and blue. A JPEG is scaled by the powers of two of its own transform
first, which spares most of the work.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features

VERSION = f"1, Pillow {PIL.__version__}, jpg {features.version_codec('jpg')}"
"""What the bytes depend on, beside the file and the size."""
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TIFF", "WEBP")
"""What is read. Pillow reads more; but some of it by other programs, and some by guessing."""
MOST_PIXELS = 2**30 // 12
"""A larger image is a mistake or a bomb; this is Pillow's own limit, where it would warn."""
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by the orientation that EXIF notes."""
_SIDEWAYS = {_TURNS[number] for number in (5, 6, 7, 8)}

Image.init()
_KNOWN = [name for name in FORMATS if name in Image.OPEN]
ENDINGS = {end for end, name in Image.registered_extensions().items() if name in _KNOWN}
"""How the names of image files end, in small letters."""

Square: TypeAlias = NDArray[np.uint8]
"""A decoded image: (3, size, size)."""


class Fault(NamedTuple):
    """What became of a file that is no image.

    Attributes:
        reason: in words.
        lasting: whether it is the file's fault, and not the system's at this moment.
    """

    reason: str
    lasting: bool = True


def decode_all(paths: Sequence[str], size: int) -> list[Square | Fault]:
    """The squares of some files, in their order, and why others have none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damages that hurt nothing
        return [_tried(path, size) for path in paths]


def decode(path: str, size: int) -> Square:
    """The square of a file; whatever Pillow raises, where it cannot be read."""
    width: float
    height: float
    with Image.open(path, formats=_KNOWN) as image:
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise ValueError(f"{width} x {height} pixels, more than {MOST_PIXELS:,}")
        if drafted := image.draft(None, (size, size)):
            *_, width, height = drafted[1]  # fractions of pixels, too
        image.load()
        turn = _TURNS.get(_orientation(image))
        upright = _rgb(image)
    if turn is not None:
        upright = upright.transpose(turn)
        if turn in _SIDEWAYS:
            width, height = height, width
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    square = upright.resize((size, size), Image.Resampling.BILINEAR, box)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _tried(path: str, size: int) -> Square | Fault:
    try:
        return decode(path, size)
    except UnidentifiedImageError:
        return Fault("no image of a format that is known")
    except Exception as error:  # noqa: BLE001 (a damaged file raises anything)
        ours = isinstance(error, MemoryError) or getattr(error, "errno", None) is not None
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Fault(" ".join(str(reason).split()), lasting=not ours)


def _orientation(image: Image.Image) -> Any:
    """The orientation that EXIF notes; a damaged note is none."""
    with suppress(Exception):
        return image.getexif().get(_ORIENTATION)
    return None


def _rgb(image: Image.Image) -> Image.Image:
    """The image in red, green and blue; what is transparent lies on white."""
    if image.mode == "F":
        raise ValueError("pixels are floats, whose range is not known")
    if image.mode[0] == "I":  # sixteen bits a pixel, which Pillow would cut off at 255
        grey = np.asarray(image).clip(0, 2**16 - 1) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
