"""Histograms in few bins, for the eye: bands of equal height, with zero in their middle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Key = tuple[str, str, str, int]
"""Network, init, activation, width."""

DECADES = (-3, 3)
"""Magnitudes that are told apart; smaller ones lie next to zero, larger ones at the edge."""
STEPS = 4
"""Bands of a decade."""
ZERO = STEPS * (DECADES[1] - DECADES[0]) + 1
"""The band of exact zeros; as many bands on either side, the first of them next to zero."""
BANDS = 2 * ZERO + 1
OVERFLOW = BANDS
"""Where entries that are not finite are counted, after all bands."""


def band_of(low: Sequence[float], high: Sequence[float]) -> NDArray[np.int64]:
    """The band of each bin by its edges, the lowest values in band 0.

    >>> band_of([-np.inf, -8.0, 0.0, 1e-9, 1.0, 1e9], [-8.0, -7.0, 0.0, 2e-9, 1.125, 2e9])
    array([51,  8, 25, 26, 39, 50])
    """
    edges = np.array([low, high])
    finite = np.isfinite(edges).all(axis=0)
    middle = np.where(finite, edges, 0.0).mean(axis=0)
    with np.errstate(divide="ignore"):
        step = np.floor((np.log10(np.abs(middle)) - DECADES[0]) * STEPS) + 1
    away = np.where(middle == 0, 0, 1 + step.clip(0, ZERO - 1))
    return np.where(finite, ZERO + np.sign(middle) * away, OVERFLOW).astype(np.int64)


def banded(
    band: NDArray[np.int64], histograms: Iterable[tuple[Key, NDArray[np.int64]]]
) -> dict[Key, NDArray[np.int64]]:
    """Counts (layers, BANDS + 1) by key, those of equal keys added up.

    Args:
        band: of each bin.
        histograms: a key and its counts (layers, bins), any number of times.
    """
    starts = np.flatnonzero(np.diff(band, prepend=-1))
    result: dict[Key, NDArray[np.int64]] = {}
    for key, counts in histograms:
        into = result.setdefault(key, np.zeros((len(counts), BANDS + 1), np.int64))
        runs = np.add.reduceat(counts, starts, axis=1)
        for index, run in zip(band[starts], runs.T, strict=True):  # two of them overflow
            into[:, index] += run
    return result
