"""Histograms as some kilobytes a cell: only the bins that are not empty, compressed."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

_ZLIB = b"\x78"
"""The first byte of what zlib compresses."""


def pack(histograms: NDArray[np.int64]) -> bytes:
    """Histograms (rows, bins): gaps between nonempty bins, then their counts.

    >>> unpack(pack(np.array([[0, 7], [0, 0], [3, 0]])), rows=3, bins=2).tolist()
    [[0, 7], [0, 0], [3, 0]]
    """
    where = np.flatnonzero(histograms)
    numbers = np.concatenate([np.diff(where, prepend=0), histograms.ravel()[where]])
    # all first bytes, then all second ones: they compress better; the high ones are 0 throughout
    used = max(int(numbers.max(initial=0)).bit_length() + 7, 8) // 8
    planes = numbers.astype("<i8").view(np.uint8).reshape(-1, 8).T[:used]
    return bytes([used]) + zlib.compress(planes.tobytes())


def unpack(packed: bytes, *, rows: int, bins: int) -> NDArray[np.int64]:
    """The histograms that were packed, (rows, bins).

    Raises:
        ValueError, IndexError: the bytes are damaged.
    """
    histograms = np.zeros((rows, bins), np.int64)
    where, counts = _nonempty(packed, rows=rows, bins=bins)
    histograms.ravel()[where] = counts
    return histograms


def add(packed: bytes, kept: NDArray[np.int64], total: NDArray[np.int64], *, rows: int) -> None:
    """Add some rows of packed histograms to a total.

    Args:
        kept: the positions of these rows among all.
        total: (kept rows, bins).
        rows: how many were packed.

    Raises:
        ValueError, IndexError: the bytes are damaged.
    """
    bins = total.shape[1]
    where, counts = _nonempty(packed, rows=rows, bins=bins)
    starts, stops = np.searchsorted(where, [kept * bins, (kept + 1) * bins])
    for into, row, start, stop in zip(total, kept, starts, stops, strict=True):
        into[where[start:stop] - row * bins] += counts[start:stop]


def _nonempty(
    packed: bytes, *, rows: int, bins: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The positions of bins that are not empty, rows one after the other, and their counts."""
    # at first all eight bytes were kept, and nothing told how many there are
    used, stored = (8, packed) if packed[:1] == _ZLIB else (packed[0], packed[1:])
    if not 1 <= used <= 8:
        raise ValueError(f"histograms of {used} bytes a number")
    most = 2 * used * rows * bins  # a gap and a count for every bin
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(stored, most + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(content) > most or not (stream.eof or rows * bins == 0):
        raise ValueError("histograms of another length")
    planes = np.frombuffer(content, np.uint8).reshape(used, -1)
    numbers = planes[0].astype(np.int64)
    for place, plane in enumerate(planes[1:], 1):
        if plane.any():
            numbers |= plane.astype(np.int64) << (8 * place)
    gaps, counts = numbers.reshape(2, -1)
    return gaps.cumsum(), counts
