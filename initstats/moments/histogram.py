"""The histogram, which needs no range: a value's bin is the leading bits of its float32.

Sign, exponent and the first three fraction bits make 4,096 bins, eight an octave, from 1e-38 to
1e+38; a bin is at most 12.5% wide. Bins are kept in ascending order of value.
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
QUANTILES = {f"q{percent:02}": percent / 100 for percent in (1, 5, 25, 50, 75, 95, 99)}
_INFINITE = HALF - (1 << FRACTION_BITS)
FINITE_BINS = slice(HALF - _INFINITE, HALF + _INFINITE)
"""The bins of finite values."""


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


def quantiles(counts: NDArray[np.int64], minimum: Array, maximum: Array) -> dict[str, Array]:
    """The seven quantiles of each histogram, never outside the bin nor beyond the extremes.

    Args:
        counts: (slots, BINS).
        minimum, maximum: (slots,), the smallest and largest finite entry.

    Returns:
        One array (slots,) for each quantile; NaN where the histogram is empty. At a point mass
        inside a bin the error is at most the bin's width (12.5% of the value, less beside the
        extremes). Smooth densities are taken as linear across a bin: the error is below 1% of the
        standard deviation up to |mean| = 2 std, 4% at 5 std, and grows as bins get wider than the
        density.
    """
    low, high = bin_edges()
    finite = range(BINS)[FINITE_BINS]
    used = finite.start + np.flatnonzero(counts[:, FINITE_BINS].any(axis=0))
    if not len(used):
        return {name: np.full(len(counts), np.nan) for name in QUANTILES}
    rows = np.arange(len(counts))[:, None]
    cumulative = counts[:, used].cumsum()  # one ascending row, so that one search serves all
    ends = cumulative[len(used) - 1 :: len(used), None]
    before = np.concatenate([ends[:1] * 0, ends[:-1]])
    target = (ends - before) * np.array(list(QUANTILES.values()))
    place = np.searchsorted(cumulative, before + target.astype(np.int64), side="right")
    place = np.minimum(place, len(used) * (rows + 1) - 1)
    bins = used[place - len(used) * rows] + np.array([-1, 0, 1])[:, None, None]
    count = counts[rows, bins]
    count[(bins < finite.start) | (bins >= finite.stop)] = 0
    extremes = minimum[:, None], maximum[:, None]
    left, right = low[bins].clip(*extremes), high[bins].clip(*extremes)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = 1 - (cumulative[place] - before - target) / count[1]
        at = _position(share.clip(0, 1), count / (right - left), right - left)
    values = left[1] + at * (right - left)[1]
    return dict(zip(QUANTILES, values.T, strict=True))


def _position(share: Array, density: Array, width: Array) -> Array:
    """The place in a bin (0 to 1) below which a share of its entries lies, for a linear density.

    Args:
        share: (...), the share of the bin's entries.
        density, width: (3, ...), those of the bin in the middle and of its neighbours. The slope
            is that between the neighbours, but at most twice the smaller of the slopes on both
            sides, and 0 at a peak or a trough (van Leer's limiter, 1977).
    """
    step, gap = np.diff(density, axis=0), (width[:-1] + width[1:]) / 2
    limit = np.where(step.prod(axis=0) > 0, 2 * np.abs(step / gap).min(axis=0), 0.0)
    slope = (step.sum(axis=0) / gap.sum(axis=0)).clip(-limit, limit)
    # 2 would be a density that falls to 0 at the bin's edge
    tilt = np.nan_to_num(slope * width[1] / density[1]).clip(-1.99, 1.99)
    position: Array = 2 * share / (1 - tilt / 2 + np.sqrt((1 - tilt / 2) ** 2 + 2 * tilt * share))
    return position
