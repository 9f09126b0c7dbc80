"""Statistics kernels for the CPU: every row is visited while it is in the first-level cache.

A row is read in blocks. The first visit to a block takes sum and extremes. The second takes powers
of (x - shift) / scale in the input's own precision, in runs that are short, so that little rounding
adds up; all that goes beyond a run is float64. A block takes a slower path in float64 if it holds
NaN, infinities, magnitudes at the ends of the exponent's range, or one entry in whose rounding all
others are lost.

Positions are unsigned: an index that cannot be negative needs no check, and loops over it become
vectors. Functions take a row, a start and a stop, counted as in a slice.
"""

from __future__ import annotations

import math
from typing import Any

import numba.extending
import numpy as np
from numpy.typing import NDArray

from initstats.compiling import kernel, part
from initstats.moments.histogram import BINS, HALF, SHIFT

Array = NDArray[Any]
BLOCK, RUN = np.uint64(6144), np.uint64(512)
EXPONENT = 0x7FF << 52
LARGEST = float(np.finfo(np.float32).max)
_intrinsic: Any = numba.extending.intrinsic
_REAL = {"reassoc", "nsz", "contract", "arcp"}
_FINITE = _REAL | {"nnan"}


@_intrinsic
def _read_as(context: Any, number: Any, like: Any) -> Any:
    """The bits of a number as one of the type of `like`, which has as many."""

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], target.get_value_type(like))

    return like(number, like), generate


@part(fastmath=_REAL)
def _survey(x, start, stop, signed, unsigned):  # type: ignore[no-untyped-def]
    """Smallest and largest entry, NaN if one of them is, and the sum.

    The extremes are those of the bits as integers: LLVM vectorizes them and not those of floats
    that may be NaN. As unsigned, negative numbers are the largest, and ascend with magnitude.
    """
    first = x[start]
    top, total = _read_as(first, signed), first - first
    bottom = last = _read_as(first, unsigned)
    for i in range(start, stop):
        v = x[i]
        top = max(top, _read_as(v, signed))
        last = max(last, _read_as(v, unsigned))
        bottom = min(bottom, _read_as(v, unsigned))
        total += v
    low = last if _read_as(last, signed) < 0 else bottom
    high = _read_as(top, unsigned) if top >= 0 else bottom
    return _read_as(low, first), _read_as(high, first), total


@part(fastmath=_FINITE)
def _powers(x, start, stop, shift, inverse, signed):  # type: ignore[no-untyped-def]
    """Sums of d, d^2, d^3, d^4, d = (x - shift) * inverse, and |x|; counts of x < 0 and x == 0.

    Counts are integers of the width of x: of two comparisons, a vector subtracts the masks.
    """
    zero, integer = shift - shift, type(signed)
    s1 = s2 = s3 = s4 = size = zero
    negative = zeros = signed
    scaled = shift * inverse
    for i in range(start, stop):
        v = x[i]
        d = v * inverse - scaled
        d2 = d * d
        s1 += d
        s2 += d2
        s3 += d2 * d
        s4 += d2 * d2
        size += abs(v)
        negative = integer(negative + (v < zero))
        zeros = integer(zeros + (v == zero))
    return s1, s2, s3, s4, size, negative, zeros


@part()
def _careful(x):  # type: ignore[no-untyped-def]
    """Everything that a block adds to a row, in float64, for entries of any kind."""
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
    mean = size = s1 = s2 = s3 = s4 = 0.0
    scale = _power_above(largest)
    if n > 0 and low < high:
        for v in x:
            if math.isfinite(v):
                mean += float(v) / scale
                size += abs(float(v)) / scale
        mean, size = mean / n * scale, size / n * scale
        scale = _power_above(max(high / 2 - mean / 2, mean / 2 - low / 2) * 2)
        for v in x:
            if math.isfinite(v):
                d = float(v) / scale - mean / scale
                s1 += d
                s2 += d * d
                s3 += d * d * d
                s4 += d * d * d * d
    else:
        mean, size, scale = low, largest, 0.0
    return n, nonfinite, infinite, mean, size, scale, low, high, negative, zeros, s1, s2, s3, s4


@part()
def _power_above(value):  # type: ignore[no-untyped-def]
    """A power of two above `value`, within the normal numbers."""
    below = _read_as(_read_as(np.float64(value), 0) & EXPONENT, 0.0)
    return min(max(2 * below, 2.0**-1021), 2.0**1023)


@part()
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


@part()
def _swallows(low, high, total):  # type: ignore[no-untyped-def]
    """Whether one entry is so large that its rounding hides the other extreme and the sum of all.

    All other entries then deviate from the mean by the same number, and float32 sums of their
    powers would round in the same direction each time.
    """
    large, small = max(-low, high), min(abs(low), abs(high))
    return abs(total) == large and small > 0 and large + small == large


@part()
def _add_block(row, x, start, stop, layout):  # type: ignore[no-untyped-def]
    """Add entries of one unit to its fields, `row`."""
    signed, unsigned, smallest, largest = layout
    low, high, total = _survey(x, start, stop, signed, unsigned)
    n = np.int64(stop - start)
    ordinary = -largest <= low < high <= largest and max(-low, high) >= smallest
    if ordinary and not _swallows(low, high, total):
        low, high, shift = float(low), float(high), total / x.dtype.type(n)
        scale = _power_above(max(high - float(shift), float(shift) - low))
        inverse = x.dtype.type(1.0 / scale)
        s1 = s2 = s3 = s4 = size = negative = zeros = 0.0
        for first in range(start, stop, RUN):
            last = min(first + RUN, stop)
            t1, t2, t3, t4, t, neg, zer = _powers(x, first, last, shift, inverse, signed)
            s1 += t1
            s2 += t2
            s3 += t3
            s4 += t4
            size += t
            negative += neg
            zeros += zer
        _merge_size(row, n, size / n)
        _merge_sums(row, n, scale, float(shift), s1, s2, s3, s4)
    else:
        found = _careful(x[start:stop])
        n, bad, infinite, mean, size, scale, low, high, neg, zer, s1, s2, s3, s4 = found
        if n > 0:
            _merge_size(row, n, size)
            _merge_sums(row, n, scale, mean, s1, s2, s3, s4)
        row[1] += bad
        row[2] += infinite
        negative, zeros = float(neg), float(zer)
    row[8], row[9] = min(row[8], low), max(row[9], high)
    row[10] += negative
    row[11] += zeros


@part()
def _merge_size(row, n, size):  # type: ignore[no-untyped-def]
    """Merge a mean of |x|; the count of the row is still that before these n entries."""
    row[12] += (size - row[12]) * (n / (row[0] + n))


@part()
def _merge_sums(row, n, scale, shift, s1, s2, s3, s4):  # type: ignore[no-untyped-def]
    """Turn sums of powers about `shift` into central moments, and merge them."""
    c = s1 / n
    m2 = s2 - c * s1
    m3 = s3 - 3 * c * s2 + 2 * c * c * s1
    m4 = s4 - 4 * c * s3 + 6 * c * c * s2 - 3 * c * c * c * s1
    _merge(row, n, scale, shift + c * scale, max(m2, 0.0), m3, max(m4, 0.0))


@part()
def _count_bins(even, odd, patterns, first, every):  # type: ignore[no-untyped-def]
    """Count every `every`-th entry, from the `first` on, in the bin of its leading bits.

    Two tables take turns, so that a run of equal values does not wait for its own last store.
    """
    shift, one = np.uint32(SHIFT), np.uint32(1)
    i, step, length = np.uint64(first), np.uint64(every), np.uint64(len(patterns))
    while i + step < length:
        even[patterns[i] >> shift] += one
        odd[patterns[i + step] >> shift] += one
        i += step + step
    if i < length:
        even[patterns[i] >> shift] += one


@part()
def _add_counts(histogram, even, odd, every):  # type: ignore[no-untyped-def]
    """Add both tables to the histogram. Empty bins are not written, and so take no memory."""
    for k in range(BINS):
        hits = np.int64(even[k]) + odd[k]
        if hits:
            histogram[HALF + k if k < HALF else BINS - 1 - k] += every * hits


@kernel(nogil=True)
def _add(units, histogram, x, patterns, layout, every):  # type: ignore[no-untyped-def]
    """Add all rows of a tile."""
    even, odd = np.zeros(BINS, np.uint32), np.zeros(BINS, np.uint32)
    length = np.uint64(x.shape[1])
    for u in range(x.shape[0]):
        _count_bins(even, odd, patterns[u], (u - int(units[u, 0] + units[u, 1])) % every, every)
        row, entries = units[u], x[u]
        for start in range(np.uint64(0), length, BLOCK):
            _add_block(row, entries, start, min(start + BLOCK, length), layout)
    _add_counts(histogram, even, odd, every)


_LAYOUTS = {
    np.dtype(np.float32): (
        np.int32(0),
        np.uint32(0),
        np.float32(2.0**-100),
        np.float32(2.0**110),
    ),
    np.dtype(np.float64): (np.int64(0), np.uint64(0), 2.0**-960, 2.0**960),
}


def add(units: Array, histogram: Array, x: Array, every: int) -> None:
    """Add a tile (units, entries), float32 or float64, C-contiguous: see `kernels_torch.add`."""
    single = x if x.dtype == np.float32 else _single(x)
    _add(units, histogram, x, single.view(np.uint32), _LAYOUTS[x.dtype], every)


@kernel()
def _single(x):  # type: ignore[no-untyped-def]
    """The values as float32; those that are finite stay finite."""
    single = np.empty(x.shape, np.float32)
    for u in range(x.shape[0]):
        for i in range(x.shape[1]):
            v = x[u, i]
            single[u, i] = math.copysign(LARGEST, v) if LARGEST < abs(v) < math.inf else v
    return single
