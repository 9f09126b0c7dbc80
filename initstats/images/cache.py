"""Decoded images on disk: a `.npy` file for each split and size, and what it was made of.

The array is mapped into memory, so that processes share it. It is taken only where it was made of
the same files by the same decoding, and its bytes are those that were written.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from initstats.drafts import draft_folder
from initstats.files import read_text
from initstats.images.decoding import VERSION, Fault, Square
from initstats.images.layout import Part

_PIXELS, _NOTES = "pixels", "notes"


class Kept(NamedTuple):
    """Decoded images, (samples, 3, size, size), and why others are left out, by their place."""

    pixels: NDArray[np.uint8]
    faults: dict[int, str]


def find(cache: Path | None, stem: str, part: Part, size: int) -> Kept | None:
    """What a cache holds of a part; None where it does not, or where it is damaged or outdated."""
    if cache is None:
        return None
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        notes = json.loads(read_text(cache / f"{stem}.json"))
        if notes["fingerprint"] != fingerprint(part, size):
            return None
        faults = {int(index): str(reason) for index, reason in notes["skipped"].items()}
        file = cache / f"{stem}.npy"
        if not file.is_file():  # opening a pipe would wait for ever
            return None
        # copied where it is written to, as torch wants memory that it may write to
        pixels = np.lib.format.open_memmap(file, mode="c")
        if _is_whole(pixels, len(part.files) - len(faults), size, notes["checksum"]):
            return Kept(pixels, faults)
    return None


def keep(
    cache: Path | None, stem: str, part: Part, size: int, decoded: Iterator[Square | Fault]
) -> Kept:
    """Gather what is decoded, in a cache where that can be written, else in memory.

    What the system would not give at this moment, as a file without permission, it may give at the
    next one: then nothing is kept.
    """
    most = (len(part.files), 3, size, size)
    with _draft(cache, math.prod(most)) as draft:
        if cache is None or draft is None:
            return _gathered(decoded, most)
        faults, checksum = _write(draft / _PIXELS, decoded, most)
        if not all(fault.lasting for fault in faults.values()):
            return Kept(np.load(draft / _PIXELS), _reasons(faults))
        notes = {
            "fingerprint": fingerprint(part, size),
            "checksum": checksum,
            "skipped": _reasons(faults),
        }
        (draft / _NOTES).write_text(json.dumps(notes))
        (draft / _PIXELS).replace(cache / f"{stem}.npy")
        (draft / _NOTES).replace(cache / f"{stem}.json")
    if kept := find(cache, stem, part, size):
        return kept
    raise OSError(f"{cache / stem}.npy: what was written there cannot be read")


def fingerprint(part: Part, size: int) -> str:
    """SHA-256 (hex) of all that decides the pixels of a part, but for the files' contents."""
    digest = hashlib.sha256(f"{VERSION} {size}".encode())
    for file in part.files:
        digest.update(b"\0%b\0" % os.fsencode(file.name))
        digest.update(f"{file.label} {file.size} {file.modified} {file.fault}".encode())
    return digest.hexdigest()


def _is_whole(pixels: NDArray[Any], count: int, size: int, checksum: object) -> bool:
    described = pixels.dtype == np.uint8 and pixels.shape == (count, 3, size, size)
    return described and pixels.flags.c_contiguous and zlib.crc32(pixels.data) == checksum


@contextmanager
def _draft(cache: Path | None, size: int) -> Iterator[Path | None]:
    """A folder in a cache with room for pixels; None where it cannot be written, or is full."""
    with ExitStack() as stack:
        draft = None
        with suppress(OSError):
            if cache:
                cache.mkdir(parents=True, exist_ok=True)
                folder = stack.enter_context(draft_folder(cache, ".images-"))
                with (folder / _PIXELS).open("wb") as file:
                    if hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(file.fileno(), 0, size)
                draft = folder
        yield draft


def _gathered(decoded: Iterator[Square | Fault], most: tuple[int, ...]) -> Kept:
    pixels, faults = np.empty(most, np.uint8), dict[int, Fault]()
    for index, square in enumerate(decoded):
        if isinstance(square, Fault):
            faults[index] = square
        else:
            pixels[index - len(faults)] = square
    return Kept(pixels[: len(pixels) - len(faults)], _reasons(faults))


def _write(
    path: Path, decoded: Iterator[Square | Fault], most: tuple[int, ...]
) -> tuple[dict[int, Fault], int]:
    """Write the squares, as many as there are at most; the faults, and the checksum of the rest."""
    faults, checksum = dict[int, Fault](), 0
    with path.open("r+b") as file:
        _begin(file, most)
        for index, square in enumerate(decoded):
            if isinstance(square, Fault):
                faults[index] = square
            else:
                file.write(square.data)
                checksum = zlib.crc32(square.data, checksum)
        file.truncate()
        _begin(file, (most[0] - len(faults), *most[1:]))
    return faults, checksum


def _begin(file: IO[bytes], shape: tuple[int, ...]) -> None:
    """Write the header, whose length is the same for any number of samples."""
    file.seek(0)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _reasons(faults: dict[int, Fault]) -> dict[int, str]:
    return {index: fault.reason for index, fault in faults.items()}
