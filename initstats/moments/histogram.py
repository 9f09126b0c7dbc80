"""The histogram without a range to choose: a value's bin is the leading bits of its float32.

Sign, exponent and the first three fraction bits make 4,096 bins, eight an octave, so 1e-30 and
1e+30 both land; a bin is at most 12.5% wide. Bins are kept in ascending order of value.
Magnitudes below 2**-129 count as zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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


def bin_edges() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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


def quantiles(
    counts: NDArray[np.int64], minimum: NDArray[np.float64], maximum: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """The seven quantiles of each histogram, linear within a bin, never beyond the extremes.

    Args:
        counts: (slots, BINS).
        minimum, maximum: (slots,), the smallest and largest finite entry.

    Returns:
        One array (slots,) a quantile; NaN where the histogram is empty. On smooth densities the
        error is below 1% of the standard deviation, at a point mass inside a bin up to the bin's
        width (12.5% of the value).
    """
    finite = finite_bins()
    low, high = (edges[finite] for edges in bin_edges())
    inside = counts[:, finite]
    used = np.flatnonzero(inside.any(axis=0))
    if not len(used):
        return {name: np.full(len(counts), np.nan) for name in QUANTILES}
    low, high, inside = low[used], high[used], inside[:, used]
    cumulative = inside.cumsum(axis=1)
    total = cumulative[:, -1]
    rows = np.arange(len(counts))
    result = {}
    for name, p in QUANTILES.items():
        target = p * total
        at = np.minimum((cumulative <= target[:, None]).sum(axis=1), len(used) - 1)
        here = inside[rows, at]
        before = cumulative[rows, at] - here
        share = np.divide(target - before, here, out=np.zeros(len(rows)), where=here > 0)
        value = low[at] + share.clip(0, 1) * (high[at] - low[at])
        result[name] = np.where(total > 0, np.clip(value, minimum, maximum), np.nan)
    return result
