"""Statistics kernels in torch: the reference for the numba kernels, and those of other devices.

All arithmetic is in float64 and takes any values. Everything stays on the tensor's device; nothing
waits for the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from initstats.moments.histogram import BINS, HALF, SHIFT
from initstats.moments.table import FIELDS


def add(units: Tensor, histogram: Tensor, x: Tensor, every: int, *, first: bool = False) -> None:
    """Add a tile to the fields of its units and to the histogram, in place.

    Args:
        units: (..., units, fields) float64; every unit has seen as many entries as the others.
        histogram: (..., BINS) int64.
        x: (..., units, entries), any floating type, on the same device.
        every: one entry in `every` goes into the histogram, with that weight.
        first: the units have seen nothing yet.
    """
    seen = units[..., FIELDS.index("count")] + units[..., FIELDS.index("nonfinite")]
    bins, weight = _bins(_single(x).view(torch.int32), seen, every)
    if histogram.is_cuda and histogram.ndim == 1:
        # as threads of scatter_add_ wait for each other at a bin, it takes ten times longer here
        taken = torch.where(weight > 0, bins, -1).to(torch.int32)
        histogram += every * torch.histc(taken, BINS, 0, BINS).to(torch.int64)
    else:
        histogram.scatter_add_(-1, bins, weight)
    units.copy_(_fields(x) if first else merge(units, _fields(x)))


def _fields(x: Tensor) -> Tensor:
    """The fields of each row of x: (..., entries) -> (..., fields).

    As few passes over the entries as can be: on a GPU they are what takes time.
    """
    finite = x.isfinite()
    n = finite.sum(-1, dtype=torch.float64)
    entries = n.clamp(min=1)
    low = torch.where(finite, x, torch.inf).amin(-1).to(torch.float64)
    high = torch.where(finite, x, -torch.inf).amax(-1).to(torch.float64)
    known = torch.where(finite, x, 0.0)
    constant = low >= high
    value = torch.where(n > 0, low, 0.0)  # that of a constant
    mean, size = _means(known, entries, torch.maximum(low.abs(), high.abs()) * (n > 0))
    mean, size = torch.where(constant, value, mean), torch.where(constant, value.abs(), size)
    reach = torch.maximum(high / 2 - mean / 2, mean / 2 - low / 2)
    scale = _power_below(torch.where(constant, 0.0, reach))
    # powers of what began as float32 stay within float64
    by = scale if x.dtype == torch.float64 else torch.ones_like(scale)
    d = torch.where(finite, _over(known, by) - (mean / by)[..., None], 0.0)
    c = d.sum(-1) / entries
    squares = d * d
    s2, s3, s4 = squares.sum(-1), (squares * d).sum(-1), (squares * squares).sum(-1)
    by = by / scale
    fields = {
        "count": n,
        "nonfinite": x.shape[-1] - n,
        "infinite": x.isinf().sum(-1),
        "scale": torch.where(constant, 0.0, scale),
        "mean": mean + c * by * scale,
        "m2": (s2 - n * c**2) * by**2,
        "m3": (s3 - 3 * c * s2 + 2 * n * c**3) * by**3,
        "m4": (s4 - 4 * c * s3 + 6 * c**2 * s2 - 3 * n * c**4) * by**4,
        "min": low,
        "max": high,
        "negative": (known < 0).sum(-1),
        "zero": (x == 0).sum(-1),
        "abs": size,
    }
    return torch.stack([fields[name].to(torch.float64) for name in FIELDS], -1)


def _means(x: Tensor, entries: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """The means of the rows of x, and of their sizes; `largest` is the largest size of each row."""
    scale = torch.ones_like(largest)
    if x.dtype == torch.float64:  # whose sums may leave its range
        scale = _power_below(largest)
        x = _over(x, scale)
    sizes = torch.linalg.vector_norm(x, 1, -1, dtype=torch.float64)
    return x.sum(-1, dtype=torch.float64) / entries * scale, sizes / entries * scale


def _over(x: Tensor, scale: Tensor) -> Tensor:
    return x / scale[..., None] if x.dtype == torch.float64 else x


def merge(a: Tensor, b: Tensor) -> Tensor:
    """The fields, (..., fields), of two sets of entries together.

    Chan, Golub & LeVeque (1983), Pebay (2008). Any order gives the same numbers up to rounding; a
    set without entries changes nothing.
    """
    sets = torch.stack((a, b)).movedim(-1, 0)  # a copy, which is overwritten
    n, _, _, scale, mean, m2, m3, m4, low, high, _, _, size = sets
    total = n[0] + n[1]
    delta = mean[1] - mean[0]
    share = n[1] / (total + (total == 0))
    joint = mean[0] + delta * share
    reach = torch.maximum(torch.maximum(scale[0], scale[1]), delta.abs() * (n[0] * n[1] > 0))
    power = _power_below(reach)
    d, r = (mean - joint) * (n > 0) / power, scale / power
    r2 = r * r
    between = n * d * d
    m2 *= r2
    m3 *= r2 * r
    m4 *= r2 * r2
    m4 += d * (4 * m3 + d * (6 * m2 + between))
    m3 += d * (3 * m2 + between)
    m2 += between
    merged = sets[:, 0] + sets[:, 1]
    merged[FIELDS.index("scale")] = power * (reach > 0)
    merged[FIELDS.index("mean")] = joint
    merged[FIELDS.index("min")] = torch.minimum(low[0], low[1])
    merged[FIELDS.index("max")] = torch.maximum(high[0], high[1])
    merged[FIELDS.index("abs")] = size[0] + (size[1] - size[0]) * share
    return merged.movedim(0, -1)


def _power_below(value: Tensor) -> Tensor:
    """The largest power of two up to `value`; 1 for 0."""
    value = value + (value == 0)
    # not ldexp, which raises 2 to the exponent in float32
    return value / (2 * torch.frexp(value).mantissa)


def _single(x: Tensor) -> Tensor:
    """The values as float32; those that are finite stay finite."""
    if x.dtype == torch.float64:
        largest = torch.finfo(torch.float32).max
        x = torch.where(x.isinf(), x, x.clamp(-largest, largest))
    return x.to(torch.float32)


def _bins(patterns: Tensor, seen: Tensor, every: int) -> tuple[Tensor, Tensor]:
    """Bin and weight of each entry that the histogram takes: one in `every`, from unit u's u-th on.

    Args:
        patterns: (..., units, entries) float32 as integers.
        seen: (..., units), the number of entries that came before.
    """
    rows, length = patterns.shape[-2:]
    start = (torch.arange(rows, device=patterns.device) - seen.to(torch.int64)) % every
    column = torch.arange(0, length, every, device=patterns.device) + start[..., None]
    weight = torch.full_like(column, every)
    weight[..., -1] *= column[..., -1] < length  # the last one may lie outside, and no other
    column[..., -1].clamp_(max=length - 1)
    taken = patterns.gather(-1, column)
    # integers that ascend with the value: of negative numbers, all bits but the sign are flipped
    ascending = (taken >> 31).bitwise_and_(2**31 - 1).bitwise_xor_(taken)
    bins = (ascending >> SHIFT).to(torch.int64).add_(HALF)
    return bins.flatten(-2), weight.flatten(-2)
