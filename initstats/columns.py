"""Chosen rows of bytes as normalized columns: a batch of images for a network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from initstats.compiling import kernel

_WIDE, _HIGH = 128, 64
"""Features and rows that are turned at a time: 32 KiB of numbers, which stay in a cache."""


def byte_columns(
    rows: NDArray[np.uint8], chosen: NDArray[np.int64], mean: float, std: float
) -> NDArray[np.float32]:
    """(row - mean) / std of the chosen rows, each a column: (features, chosen), contiguous.

    Args:
        rows: (samples, features), contiguous.
        chosen: which rows; each must be there, and negative ones count from the end.
        mean, std: in units of a byte.
    """
    columns = np.empty((rows.shape[1], len(chosen)), np.float32)
    _fill(columns, rows, chosen, np.float32(mean), np.float32(std))
    return columns


@kernel(nogil=True)
def _fill(columns, rows, chosen, mean, std):  # type: ignore[no-untyped-def]
    """Normalize a part of some rows, then write it as a part of columns."""
    samples, features = len(chosen), rows.shape[1]
    part = np.empty((_HIGH, _WIDE), np.float32)
    for left in range(0, features, _WIDE):
        wide = min(_WIDE, features - left)
        for top in range(0, samples, _HIGH):
            high = min(_HIGH, samples - top)
            for sample in range(high):
                # an index into a slice is known to lie inside: only then are many done at once
                row = rows[chosen[top + sample], left : left + wide]
                numbers = part[sample]
                for feature in range(wide):
                    numbers[feature] = (np.float32(row[feature]) - mean) / std
            for feature in range(wide):
                column = columns[left + feature, top : top + high]
                for sample in range(high):
                    column[sample] = part[sample, feature]
