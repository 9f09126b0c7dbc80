"""Histograms as shapes: each layer's values in equal bins over its own range."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from initstats.plots.bands import Key

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

    def __call__(self, counts: NDArray[np.int64]) -> Shape:
        """The shapes of layers, whose counts are (layers, bins)."""
        sums = counts[:, self._order].cumsum(axis=1)
        total = sums[:, -1:]
        heights = np.zeros((len(counts), BINS), np.uint8)
        span = np.full((len(counts), 2), np.nan, np.float32)
        first = (sums > TAIL * total).argmax(axis=1)
        last = (sums >= (1 - TAIL) * total).argmax(axis=1)
        for layer in np.flatnonzero(total[:, 0]):
            ends = float(self._low[first[layer]]), float(self._high[last[layer]])
            heights[layer] = self._heights(sums[layer], ends)
            span[layer] = ends
        return Shape(heights, span)

    def _heights(self, sums: NDArray[np.int64], ends: tuple[float, float]) -> NDArray[np.uint8]:
        """Heights of equal bins; values lie evenly within a bin of the store."""
        grid = np.linspace(*ends, BINS + 1)
        at = np.concatenate([self._low[:1], self._high])
        share = np.diff(np.interp(grid, at, np.concatenate([[0], sums])))
        heights: NDArray[np.uint8] = np.round(FULL * share / share.max()).astype(np.uint8)
        return heights


def by_configuration(
    cells: Iterable[tuple[tuple[str | int | float, ...], NDArray[np.int64]]],
) -> Iterator[tuple[Key, NDArray[np.int64]]]:
    """Counts by configuration, those of seeds that follow each other added up."""
    for key, seeds in groupby(cells, lambda cell: cell[0][:4]):
        network, init, activation, width = key
        total = np.sum([counts for _, counts in seeds], axis=0)
        yield (str(network), str(init), str(activation), int(width)), total
