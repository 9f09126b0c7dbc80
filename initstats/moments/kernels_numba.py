"""Statistics kernels for the CPU: every row is visited while it is in the first-level cache.

A row is read in blocks. Of a block a first visit takes sum and extremes, a second the powers of
(x - shift) / scale in the input's own precision, in runs short enough that rounding does not pile
up; everything across runs is float64. Blocks that hold NaN, infinities or magnitudes at the ends of
the exponent's range go through a float64 path.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from initstats.moments.histogram import BINS, HALF, SHIFT

Array = NDArray[Any]
BLOCK = 4096
RUN = 512
LARGEST = float(np.finfo(np.float32).max)
_REAL = {"reassoc", "nsz", "contract", "arcp"}
_FINITE = _REAL | {"nnan"}


def _compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """njit, cached on disk where that is possible (numba raises at definition where it is not)."""

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=True, error_model="numpy", **options)(function)
        except RuntimeError:
            return numba.njit(error_model="numpy", **options)(function)

    return decorate


@_compiled(fastmath=_REAL)
def _sum(x):  # type: ignore[no-untyped-def]
    """Sum in the precision of x."""
    total = x[0] - x[0]
    for i in range(len(x)):
        total += x[i]
    return total


@_compiled()
def _extremes(bits, magnitude, sign_shift):  # type: ignore[no-untyped-def]
    """Smallest and largest entry as integers in the order of the floats (NaN beyond infinity).

    Integers, because LLVM vectorizes their minimum and not that of floats that may be NaN.
    """
    first = bits[0] ^ ((bits[0] >> sign_shift) & magnitude)
    low = high = first
    for i in range(len(bits)):
        v = bits[i] ^ ((bits[i] >> sign_shift) & magnitude)
        low = min(low, v)
        high = max(high, v)
    return low, high


@_compiled(fastmath=_FINITE)
def _powers(x, shift, inverse):  # type: ignore[no-untyped-def]
    """Sums of d, d^2, d^3, d^4, d = (x - shift) * inverse, and the counts of x < 0 and x == 0."""
    zero = shift - shift
    one = zero + type(shift)(1)
    s1 = s2 = s3 = s4 = negative = zeros = zero
    scaled = shift * inverse
    for i in range(len(x)):
        v = x[i]
        d = v * inverse - scaled
        d2 = d * d
        s1 += d
        s2 += d2
        s3 += d2 * d
        s4 += d2 * d2
        negative += one if v < zero else zero
        zeros += one if v == zero else zero
    return s1, s2, s3, s4, negative, zeros


@_compiled()
def _careful(x):  # type: ignore[no-untyped-def]
    """The same numbers in float64, of the finite entries, for blocks of any content."""
    n = nonfinite = infinite = negative = zeros = 0
    largest = 0.0
    low, high = math.inf, -math.inf
    for v in x:
        if math.isfinite(v):
            n += 1
            largest = max(largest, abs(float(v)))
            low, high = min(low, float(v)), max(high, float(v))
            negative += v < 0
            zeros += v == 0
        else:
            nonfinite += 1
            infinite += math.isinf(v)
    mean = s1 = s2 = s3 = s4 = 0.0
    scale = _power_above(largest)
    if n > 0 and low < high:
        for v in x:
            if math.isfinite(v):
                mean += float(v) / scale
        mean = mean / n * scale
        scale = _power_above(max(high / 2 - mean / 2, mean / 2 - low / 2) * 2)
        for v in x:
            if math.isfinite(v):
                d = float(v) / scale - mean / scale
                s1 += d
                s2 += d * d
                s3 += d * d * d
                s4 += d * d * d * d
    else:
        mean, scale = low, 0.0
    return n, nonfinite, infinite, mean, scale, low, high, negative, zeros, s1, s2, s3, s4


@_compiled()
def _power_above(value):  # type: ignore[no-untyped-def]
    """A power of two of at least about `value` (within the normal numbers; 1 for 0)."""
    if value == 0.0:
        return 1.0
    return math.ldexp(1.0, max(min(math.frexp(value)[1], 1023), -1021))


@_compiled()
def _merge(row, n, scale, mean, m2, m3, m4):  # type: ignore[no-untyped-def]
    """Chan, Golub & LeVeque (1983) and Pebay (2008): two sets of moments into one, in `row`."""
    a = row[0]
    if a == 0:
        row[0], row[3], row[4], row[5], row[6], row[7] = n, scale, mean, m2, m3, m4
        return
    delta = mean - row[4]
    common = max(row[3], scale)
    if abs(delta) > common:
        common = _power_above(abs(delta))
    total = a + n
    row[4] += delta * (n / total)
    if common > 0:
        r, t, d = row[3] / common, scale / common, delta / common
        a2, a3, a4 = row[5] * r * r, row[6] * r * r * r, row[7] * r * r * r * r
        b2, b3, b4 = m2 * t * t, m3 * t * t * t, m4 * t * t * t * t
        fa, fb = a / total, n / total
        row[5] = a2 + b2 + d * d * a * fb
        row[6] = a3 + b3 + d**3 * a * fb * (fa - fb) + 3 * d * (fa * b2 - fb * a2)
        row[7] = (
            a4
            + b4
            + d**4 * a * fb * (fa * fa - fa * fb + fb * fb)
            + 6 * d * d * (fa * fa * b2 + fb * fb * a2)
            + 4 * d * (fa * b3 - fb * a3)
        )
    row[0], row[3] = total, common


@_compiled()
def _add_block(row, x, bits, layout, pair):  # type: ignore[no-untyped-def]
    """One block of one unit into its fields, `row`; `pair` is room to read bits as floats."""
    magnitude, sign_shift, smallest, largest = layout
    first, last = _extremes(bits, magnitude, sign_shift)
    first = first ^ ((first >> sign_shift) & magnitude)
    last = last ^ ((last >> sign_shift) & magnitude)
    reach = max(first & magnitude, last & magnitude)
    n = len(x)
    if smallest <= reach <= largest and first != last:
        as_bits = pair.view(bits.dtype)
        as_bits[0], as_bits[1] = first, last
        low, high = float(pair[0]), float(pair[1])
        shift = _sum(x) / x.dtype.type(n)
        scale = _power_above(max(high - float(shift), float(shift) - low))
        inverse = x.dtype.type(1.0 / scale)
        s1 = s2 = s3 = s4 = negative = zeros = 0.0
        for start in range(0, n, RUN):
            t1, t2, t3, t4, neg, zer = _powers(x[start : start + RUN], shift, inverse)
            s1 += t1
            s2 += t2
            s3 += t3
            s4 += t4
            negative += neg
            zeros += zer
        _merge_sums(row, n, scale, float(shift), s1, s2, s3, s4)
    else:
        n, bad, infinite, mean, scale, low, high, neg, zer, s1, s2, s3, s4 = _careful(x)
        if n > 0:
            _merge_sums(row, n, scale, mean, s1, s2, s3, s4)
        row[1] += bad
        row[2] += infinite
        negative, zeros = float(neg), float(zer)
    row[8], row[9] = min(row[8], low), max(row[9], high)
    row[10] += negative
    row[11] += zeros


@_compiled()
def _merge_sums(row, n, scale, shift, s1, s2, s3, s4):  # type: ignore[no-untyped-def]
    """Sums of powers about `shift` become central moments, then merge."""
    c = s1 / n
    m2 = s2 - c * s1
    m3 = s3 - 3 * c * s2 + 2 * c * c * s1
    m4 = s4 - 4 * c * s3 + 6 * c * c * s2 - 3 * c * c * c * s1
    _merge(row, n, scale, shift + c * scale, max(m2, 0.0), m3, max(m4, 0.0))


@_compiled()
def _count_bins(histogram, units, patterns, every):  # type: ignore[no-untyped-def]
    """Every `every`-th entry of each unit, from its u-th on, into the bins of its leading bits.

    Four tables in turn, so that a run of equal values does not wait for its own last store.
    """
    a, b, c, d = (
        np.zeros(BINS, np.uint32),
        np.zeros(BINS, np.uint32),
        np.zeros(BINS, np.uint32),
        np.zeros(BINS, np.uint32),
    )
    shift, one = np.uint32(SHIFT), np.uint32(1)
    for u in range(patterns.shape[0]):
        row = patterns[u]
        i = (u - int(units[u, 0] + units[u, 1])) % every
        while i + 3 * every < len(row):
            a[row[i] >> shift] += one
            b[row[i + every] >> shift] += one
            c[row[i + 2 * every] >> shift] += one
            d[row[i + 3 * every] >> shift] += one
            i += 4 * every
        while i < len(row):
            a[row[i] >> shift] += one
            i += every
    for k in range(HALF):
        histogram[HALF + k] += every * (np.int64(a[k]) + b[k] + c[k] + d[k])
    for k in range(HALF, BINS):
        histogram[BINS - 1 - k] += every * (np.int64(a[k]) + b[k] + c[k] + d[k])


@_compiled(nogil=True)
def _add(units, histogram, x, bits, patterns, layout, every):  # type: ignore[no-untyped-def]
    """All rows of a tile: see `add`."""
    _count_bins(histogram, units, patterns, every)
    pair = np.empty(2, x.dtype)
    for u in range(x.shape[0]):
        for start in range(0, x.shape[1], BLOCK):
            stop = min(start + BLOCK, x.shape[1])
            _add_block(units[u], x[u, start:stop], bits[u, start:stop], layout, pair)


def _layout(dtype: type, integer: type, low: float, high: float) -> tuple[Any, ...]:
    """How the kernels read a float type.

    As which integer; then its magnitude mask, its sign shift, and between which largest magnitudes
    (as bits) a block takes the fast path.
    """
    limits: Array = np.array([low, high], dtype).view(integer)
    return integer, (integer(np.iinfo(integer).max), integer(np.iinfo(integer).bits - 1), *limits)


_LAYOUTS = {
    np.dtype(np.float32): _layout(np.float32, np.int32, 2.0**-100, 2.0**110),
    np.dtype(np.float64): _layout(np.float64, np.int64, 2.0**-960, 2.0**960),
}


def add(units: Array, histogram: Array, x: Array, every: int) -> None:
    """Add a tile to the fields of its units and to the histogram, in place.

    Args:
        units: (units, fields) float64.
        histogram: (BINS,) int64.
        x: (units, entries), float32 or float64, C-contiguous.
        every: one entry in `every` goes into the histogram, with that weight.
    """
    integer, layout = _LAYOUTS[x.dtype]
    single = x if x.dtype == np.float32 else _single(x)
    _add(units, histogram, x, x.view(integer), single.view(np.uint32), layout, every)


@_compiled()
def _single(x):  # type: ignore[no-untyped-def]
    """As float32; what is finite stays finite."""
    single = np.empty(x.shape, np.float32)
    for u in range(x.shape[0]):
        for i in range(x.shape[1]):
            v = x[u, i]
            single[u, i] = math.copysign(LARGEST, v) if LARGEST < abs(v) < math.inf else v
    return single
