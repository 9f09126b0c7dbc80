"""Histograms in few bins for figures: bands of equal height, with zero in their middle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Key = tuple[str, str, str, int]
"""A network, an init, an activation and a width."""

LARGEST = 3
"""Magnitudes between 10^-3 and 10^3 are told apart; smaller ones lie next to zero, larger ones at
the edge."""
PER_DECADE = 4
"""Bands per decade."""
_POSITIVE = 10.0 ** (np.arange(2 * LARGEST * PER_DECADE) / PER_DECADE - LARGEST)
_EDGES = np.concatenate([-_POSITIVE[::-1], [0.0, 0.0], _POSITIVE])
EDGES = np.array([[-np.inf, *_EDGES, np.nan], [*_EDGES, np.inf, np.nan]])
"""Lower and upper edges of the bands, (2, BANDS + 1)."""
ZERO = len(_POSITIVE) + 1
"""The band of exact zeros; there are as many bands on either side of it."""
BANDS = 2 * ZERO + 1
OVERFLOW = BANDS
"""The place after all bands, where entries that are not finite are counted."""


def band_of(low: Sequence[float], high: Sequence[float]) -> NDArray[np.int64]:
    """The band of each bin by its edges, the lowest values in band 0.

    >>> band_of([-np.inf, -8.0, 0.0, 1e-9, 1.0, 1e9], [-8.0, -7.0, 0.0, 2e-9, 1.125, 2e9])
    array([51,  8, 25, 26, 39, 50])
    """
    edges = np.array([low, high])
    finite = np.isfinite(edges).all(axis=0)
    middle = np.where(finite, edges, 0.0).mean(axis=0)
    away = np.sign(middle) * (1 + np.searchsorted(_POSITIVE, np.abs(middle), "right"))
    return np.where(finite, ZERO + away, OVERFLOW).astype(np.int64)


def banded(
    band: NDArray[np.int64], histograms: Iterable[tuple[Key, NDArray[np.int64]]]
) -> dict[Key, NDArray[np.int64]]:
    """Counts (layers, BANDS + 1) by key; counts (layers, bins) of equal keys are added up."""
    starts = np.flatnonzero(np.diff(band, prepend=-1))
    result: dict[Key, NDArray[np.int64]] = {}
    for key, counts in histograms:
        into = result.setdefault(key, np.zeros((len(counts), BANDS + 1), np.int64))
        runs = np.add.reduceat(counts, starts, axis=1)
        for index, run in zip(band[starts], runs.T, strict=True):  # two of them overflow
            into[:, index] += run
    return result


def tidy(keys: pd.DataFrame, counts: NDArray[np.int64]) -> pd.DataFrame:
    """Counts (rows, BANDS + 1) as a table: one row per band that is not empty.

    Returns:
        The keys, `band`, its edges `low` and `high` (NaN for what is not finite) and `count`. A row
        without any entry keeps the band of zeros.
    """
    held = counts > 0
    held[~held.any(axis=1), ZERO] = True
    row, band = np.nonzero(held)
    place = {"band": band, "low": EDGES[0][band], "high": EDGES[1][band]}
    return keys.iloc[row].reset_index(drop=True).assign(**place, count=counts[row, band])


def counts_of(frame: pd.DataFrame, keys: Sequence[str]) -> NDArray[np.int64]:
    """Counts (rows, BANDS + 1) of a table by `tidy`, in the order of its rows' keys."""
    row = frame.groupby(list(keys), sort=False, observed=True).ngroup().to_numpy()
    counts = np.zeros((row.max() + 1, BANDS + 1), np.int64)
    counts[row, frame["band"]] = frame["count"]
    return counts
