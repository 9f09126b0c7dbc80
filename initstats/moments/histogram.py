"""The histogram without a range to choose: a value's bin is the leading bits of its float32.

Sign, exponent and the first three fraction bits make 4,096 bins, eight an octave, so 1e-30 and
1e+30 both land; a bin is at most 12.5% wide. Bins are kept in ascending order of value.
Magnitudes below 2**-129 count as zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FRACTION_BITS = 3
SHIFT = 23 - FRACTION_BITS
HALF = 1 << (8 + FRACTION_BITS)
"""Bins of one sign."""
BINS = 2 * HALF
QUANTILES = {
    "q01": 0.01,
    "q05": 0.05,
    "q25": 0.25,
    "q50": 0.5,
    "q75": 0.75,
    "q95": 0.95,
    "q99": 0.99,
}
_INFINITE = HALF - (1 << FRACTION_BITS)


def bin_edges() -> tuple[Array, Array]:
    """Lower and upper edge of every bin, ascending; both 0 for the two bins of zero.

    The bins of infinities and NaNs (the outermost eight of each side) have infinite edges.

    >>> low, high = bin_edges()
    >>> one = HALF + (127 << FRACTION_BITS)
    >>> float(low[one]), float(high[one])
    (1.0, 1.125)
    """
    exponent, fraction = np.divmod(np.arange(HALF + 1), 1 << FRACTION_BITS)
    significand = np.where(exponent > 0, fraction + (1 << FRACTION_BITS), fraction)
    edges = np.ldexp(significand.astype(np.float64), np.maximum(exponent, 1) - 127 - FRACTION_BITS)
    edges[_INFINITE:] = np.inf
    low, high = edges[:-1].copy(), edges[1:].copy()
    high[0] = 0.0
    return np.concatenate([-high[::-1], low]), np.concatenate([-low[::-1], high])


def finite_bins() -> slice:
    """The bins that finite values fall into."""
    return slice(HALF - _INFINITE, HALF + _INFINITE)


def quantiles(counts: NDArray[np.int64], minimum: Array, maximum: Array) -> dict[str, Array]:
    """The seven quantiles of each histogram, never outside the bin nor beyond the extremes.

    Args:
        counts: (slots, BINS).
        minimum, maximum: (slots,), the smallest and largest finite entry.

    Returns:
        One array (slots,) a quantile; NaN where the histogram is empty. At a point mass inside a
        bin the error is up to the bin's width (12.5% of the value, less beside the extremes). For
        smooth densities the slope across bins is followed: the error is below 1% of the standard
        deviation up to |mean| = 2 std, 4% at 5 std, and grows as bins get wider than the density.
    """
    low, high = bin_edges()
    inside = np.zeros_like(counts)
    inside[:, finite_bins()] = counts[:, finite_bins()]
    used = np.flatnonzero(inside.any(axis=0))
    if not len(used):
        return {name: np.full(len(counts), np.nan) for name in QUANTILES}
    cumulative = inside[:, used].cumsum(axis=1)
    rows, extremes = np.arange(len(counts)), (minimum[:, None], maximum[:, None])
    result = {}
    for name, p in QUANTILES.items():
        target = p * cumulative[:, -1]
        place = np.minimum((cumulative <= target[:, None]).sum(axis=1), len(used) - 1)
        bins = used[place][:, None] + np.array([-1, 0, 1])
        count = np.take_along_axis(inside, bins, axis=1)
        left, right = low[bins].clip(*extremes), high[bins].clip(*extremes)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = 1 - (cumulative[rows, place] - target) / count[:, 1]
            at = _position(share.clip(0, 1), count / (right - left), right - left)
        result[name] = left[:, 1] + at * (right - left)[:, 1]
    return result


def _position(share: Array, density: Array, width: Array) -> Array:
    """How far into its bin (0 to 1) a share of a bin's entries reaches, the density being linear.

    Args:
        share: (slots,) of the entries.
        density, width: (slots, 3), of the bin in the middle and of its neighbours. The slope is
            that between the neighbours, at most twice the smaller to either side, and none at a
            peak or a trough (van Leer's limiter, 1977).
    """
    step, gap = np.diff(density), (width[:, :-1] + width[:, 1:]) / 2
    limit = np.where(step.prod(axis=1) > 0, 2 * np.abs(step / gap).min(axis=1), 0.0)
    slope = (step.sum(axis=1) / gap.sum(axis=1)).clip(-limit, limit)
    # 2 would be a density that falls to 0 at the bin's edge
    tilt = np.nan_to_num(slope * width[:, 1] / density[:, 1]).clip(-1.99, 1.99)
    position: Array = 2 * share / (1 - tilt / 2 + np.sqrt((1 - tilt / 2) ** 2 + 2 * tilt * share))
    return position
