"""Means and differences over seeds: paired t where seeds are shared, Welch (1947) where not."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

CONFIDENCE = 0.95


class Seeds(NamedTuple):
    """Which seeds count at each place, (places, seeds) each, and whether they are pairs, (places,).

    Two shared seeds or more are pairs, and other seeds do not count then. So is a single one,
    unless both sides have others: from these an interval can be had.
    """

    a: Mask
    b: Mask
    paired: Mask


def chosen_seeds(a: Mask, b: Mask) -> Seeds:
    """The seeds that count, from those that were measured on either side, (places, seeds)."""
    shared = a & b
    pairs = shared.sum(axis=1)
    enough = np.minimum(a.sum(axis=1), b.sum(axis=1)) > 1
    paired = (pairs > 1) | ((pairs == 1) & ~enough)
    either = paired[:, None]
    return Seeds(np.where(either, shared, a), np.where(either, shared, b), paired)


class Estimates(NamedTuple):
    """The means of both sides, their difference and its 95% interval, (places,) each."""

    a: Array
    b: Array
    difference: Array
    low: Array
    high: Array


def estimates(a: Array, b: Array, seeds: Seeds) -> Estimates:
    """Means over seeds, and b - a.

    An infinite value makes a mean infinite, and a NaN, or infinities of both signs, make it NaN:
    nothing is left out. Two values of minus infinity, the logarithms of zeros, do not differ.

    Args:
        a, b: (places, seeds).

    Returns:
        The interval is NaN where a side has one seed, or the difference is not finite.
    """
    with np.errstate(all="ignore"):
        mean_a, error_a, count_a = _mean_and_error(a, seeds.a)
        mean_b, error_b, count_b = _mean_and_error(b, seeds.b)
        between, error, pairs = _mean_and_error(_minus(b, a), seeds.a & seeds.b)
        squares = error_a**2 + error_b**2
        parts = error_a**4 / (count_a - 1) + error_b**4 / (count_b - 1)
        welch = np.where(squares > 0, squares**2 / parts, count_a + count_b - 2)
        difference = np.where(seeds.paired, between, _minus(mean_b, mean_a))
        error = np.where(seeds.paired, error, np.sqrt(squares))
        freedom = np.where(seeds.paired, pairs - 1, welch)
        quantile = stdtrit(np.maximum(freedom, 0.5), (1 + CONFIDENCE) / 2)
        half = np.where(np.isfinite(difference), quantile * error, np.nan)
    return Estimates(mean_a, mean_b, difference, difference - half, difference + half)


def _minus(b: Array, a: Array) -> Array:
    return np.where((a == -np.inf) & (b == -np.inf), 0.0, b - a)


def _mean_and_error(values: Array, counted: Mask) -> tuple[Array, Array, Array]:
    """Mean over the seeds that count, its standard error (NaN for one seed), and their number."""
    count = counted.sum(axis=1).astype(np.float64)
    mean = np.where(counted, values, 0.0).sum(axis=1) / count
    off = np.where(counted, values - mean[:, None], 0.0)
    variance = (off**2).sum(axis=1) / np.where(count > 1, count - 1, np.nan)
    return mean, np.sqrt(variance / count), count
