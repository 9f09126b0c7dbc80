"""Tiles whose units lie beside each other in memory, brought into rows one panel at a time.

Kernels want the entries of a unit beside each other. Where the units are, as in (samples, tokens,
units), a copy of the tensor would be written to fresh memory and read again. A panel is part of the
units and of their entries, and stays in the second-level cache until it is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initstats.compiling import kernel

Array = NDArray[Any]
UNITS, ENTRIES = 128, 768
SMALLEST = 2**14
"""Tiles of fewer entries are copied: each panel takes some microseconds."""
ONE, TWO, THREE, FOUR, FIVE, SIX, SEVEN, EIGHT = (np.uint64(number) for number in range(1, 9))


def lies_across(x: Tensor) -> bool:
    """Whether a tile (units, entries) has its units beside each other, and is worth dividing."""
    return x.ndim == 2 and x.stride(0) == 1 and x.stride(1) > 1 and x.numel() >= SMALLEST


def panels(x: Tensor, every: int) -> Iterator[tuple[slice, Array]]:
    """Parts of such a tile: which units, and their entries, which are good until the next part.

    The entries of a unit come in their order.

    Args:
        every: the number of units in a part is a multiple of this, but for the last ones.
    """
    (units, entries), step = x.shape, x.stride(1)
    width = -(-UNITS // every) * every
    flat = torch.as_strided(x, ((entries - 1) * step + units,), (1,)).numpy()
    buffer = np.empty(min(width, units) * min(ENTRIES, entries), flat.dtype)
    for first in range(0, entries, ENTRIES):
        size = min(ENTRIES, entries - first)
        for unit in range(0, units, width):
            part = slice(unit, min(unit + width, units))
            rows = buffer[: (part.stop - unit) * size].reshape(-1, size)
            _gather(rows, flat, first * step + unit, step)
            yield part, rows


@kernel(nogil=True)
def _gather(rows, flat, first, step):  # type: ignore[no-untyped-def]
    """Fill rows[unit, entry] with flat[first + entry * step + unit], eight entries at a time."""
    zero, units, entries = np.uint64(0), np.uint64(rows.shape[0]), np.uint64(rows.shape[1])
    first, step = np.uint64(first), np.uint64(step)
    whole = entries - entries % EIGHT
    for e in range(zero, whole, EIGHT):
        a = first + e * step
        for u in range(units):
            at = a + u
            v0, v1, v2, v3 = (
                flat[at],
                flat[at + step],
                flat[at + TWO * step],
                flat[at + THREE * step],
            )
            at += FOUR * step
            v4, v5, v6, v7 = (
                flat[at],
                flat[at + step],
                flat[at + TWO * step],
                flat[at + THREE * step],
            )
            row = rows[u]
            row[e], row[e + ONE], row[e + TWO], row[e + THREE] = v0, v1, v2, v3
            row[e + FOUR], row[e + FIVE], row[e + SIX], row[e + SEVEN] = v4, v5, v6, v7
    for e in range(whole, entries):
        for u in range(units):
            rows[u, e] = flat[first + e * step + u]
