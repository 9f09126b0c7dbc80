"""Histograms in few bins for figures: bands of equal height, with zero in their middle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Key = tuple[str, str, str, int]
"""A network, an init, an activation and a width."""

DECADES = (-3, 3)
"""Powers of ten of the magnitudes that are told apart; smaller ones lie next to zero, larger ones
at the edge."""
STEPS = 4
"""Bands per decade."""
ZERO = STEPS * (DECADES[1] - DECADES[0]) + 1
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


def tidy(keys: pd.DataFrame, counts: NDArray[np.int64]) -> pd.DataFrame:
    """Counts in bands as a table: one row per band that is not empty.

    Args:
        keys: what each row of counts is about.
        counts: (rows, BANDS + 1).

    Returns:
        The keys, `band`, its edges `low` and `high` (NaN for what is not finite) and `count`. Of a
        row without any entry, the band of zeros remains.
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


def _edges() -> NDArray[np.float64]:
    """Lower and upper edges of the bands, (2, BANDS + 1)."""
    steps = 10.0 ** (DECADES[0] + np.arange(ZERO) / STEPS)
    low, high = np.append(0, steps[:-1]), np.append(steps[:-1], np.inf)
    nothing = [np.nan]
    return np.array(
        [
            np.concatenate([-high[::-1], [0], low, nothing]),
            np.concatenate([-low[::-1], [0], high, nothing]),
        ]
    )


EDGES = _edges()
