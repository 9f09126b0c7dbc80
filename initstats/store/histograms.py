"""Histograms as some kilobytes a cell: only the bins that are not empty, compressed."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray


def pack(histograms: NDArray[np.int64]) -> bytes:
    """Histograms (rows, bins): gaps between nonempty bins, then their counts.

    >>> unpack(pack(np.array([[0, 7], [0, 0], [3, 0]])), rows=3, bins=2).tolist()
    [[0, 7], [0, 0], [3, 0]]
    """
    where = np.flatnonzero(histograms)
    numbers = np.concatenate([np.diff(where, prepend=0), histograms.ravel()[where]])
    # all first bytes, then all second ones: nearly all high bytes are 0, which compresses well
    return zlib.compress(numbers.astype("<i8").view(np.uint8).reshape(-1, 8).T.tobytes())


def unpack(packed: bytes, *, rows: int, bins: int) -> NDArray[np.int64]:
    """The histograms that were packed, (rows, bins).

    Raises:
        ValueError: the bytes are damaged.
    """
    most = 16 * rows * bins  # a gap and a count of eight bytes for every bin
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(packed, most + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(content) > most or not (stream.eof or rows * bins == 0):
        raise ValueError("histograms of another length")
    planes = np.frombuffer(content, np.uint8).reshape(8, -1)
    gaps, counts = np.ascontiguousarray(planes.T).view("<i8").reshape(2, -1)
    histograms = np.zeros(rows * bins, np.int64)
    histograms[gaps.cumsum()] = counts
    return histograms.reshape(rows, bins)
