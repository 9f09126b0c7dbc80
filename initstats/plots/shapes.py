"""Histograms as shapes: each layer's values in equal bins over its own range."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BINS = 40
"""Equal bins of a layer's range."""
TAIL = 0.005
"""The share of a layer's values that its range leaves out at either end."""
FULL = 255
"""The height of a layer's fullest bin."""


class Shape(NamedTuple):
    """The shapes of the layers of one configuration, all seeds together.

    Attributes:
        heights: (layers, BINS), of `FULL`; exact zeros are left out.
        span: (layers, 2), the ends of the first bin and of the last; NaN in a layer that holds
            nothing but zeros and what is not finite.
    """

    heights: NDArray[np.uint8]
    span: NDArray[np.float32]


class Shaper:
    """Shapes from counts in the bins of a store.

    Args:
        low, high: the bins' edges; both 0 for exact zeros, infinite for what is not finite.
    """

    def __init__(self, low: Iterable[float], high: Iterable[float]) -> None:
        edges = np.array([[*low], [*high]])
        used = np.flatnonzero(np.isfinite(edges).all(axis=0) & edges.any(axis=0))
        self._order = used[np.argsort(edges[0, used], kind="stable")]
        self._low, self._high = edges[:, self._order]
        self._edges = np.concatenate([self._low[:1], self._high])

    def __call__(self, counts: NDArray[np.int64]) -> Shape:
        """The shapes of layers, whose counts are (layers, bins)."""
        heights = np.zeros((len(counts), BINS), np.uint8)
        span = np.full((len(counts), 2), np.nan, np.float32)
        there = np.flatnonzero(np.any(counts, axis=0)[self._order])
        if len(there):
            inside = slice(there[0], there[-1] + 1)
            sums = counts[:, self._order[inside]].cumsum(axis=1)
            held = np.flatnonzero(sums[:, -1])
            span[held], heights[held] = self._shaped(sums[held], inside)
        return Shape(heights, span)

    def _shaped(self, sums: NDArray[np.int64], inside: slice) -> tuple[Array, Array]:
        """Ends and heights of equal bins; values lie evenly within a bin of the store.

        Args:
            sums: (layers, bins), the counts in a bin and in all below it.
            inside: which bins of the store these are.
        """
        total = sums[:, -1:]
        first = self._low[inside][(sums > TAIL * total).argmax(axis=1)]
        last = self._high[inside][(sums >= (1 - TAIL) * total).argmax(axis=1)]
        at = self._edges[inside.start : inside.stop + 1]
        grids = np.linspace(first, last, BINS + 1, axis=1)
        layers = np.pad(sums, [(0, 0), (1, 0)])
        below = [np.interp(grid, at, layer) for grid, layer in zip(grids, layers, strict=True)]
        share = np.diff(below)
        heights = np.round(FULL * share / share.max(axis=1, keepdims=True))
        return np.stack([first, last], axis=1), heights
