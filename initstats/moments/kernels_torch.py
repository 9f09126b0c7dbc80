"""Statistics kernels in torch: the reference for the numba kernels, and the way on other devices.

Same contract, no synchronization with the host: everything stays on the tensor's device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from initstats.moments.histogram import HALF, SHIFT
from initstats.moments.table import FIELDS


def add(units: Tensor, histogram: Tensor, x: Tensor, every: int) -> None:
    """Add a tile to the fields of its units and to the histogram, in place.

    Args:
        units: (..., units, fields) float64.
        histogram: (..., BINS) int64.
        x: (..., units, entries), any floating type, on the same device.
        every: one entry in `every` goes into the histogram, with that weight.
    """
    seen = units[..., FIELDS.index("count")] + units[..., FIELDS.index("nonfinite")]
    histogram.scatter_add_(-1, *_bins(_single(x).view(torch.int32), seen, every))
    fields = _quick_fields(x) if x.device.type == "cpu" and x.dtype == torch.float32 else None
    units.copy_(merge(units, _fields(x) if fields is None else fields))


def _quick_fields(x: Tensor) -> Tensor | None:
    """As `_fields`, in float32 like the numba kernels; None where x holds what needs float64.

    For the CPU alone: elsewhere, to look at the values would be to wait for the device.
    """
    n = x.shape[-1]
    low, high = x.amin(-1), x.amax(-1)
    reach, constant = torch.maximum(-low, high), low == high
    if n > 2**24 or not ((reach < 2.0**110) & (constant | (reach > 2.0**-100))).all():
        return None
    shift = torch.where(constant, low, x.sum(-1) / n)
    scale = _power_above(torch.maximum(high.double() - shift, shift.double() - low))
    d = (x - shift[..., None]).mul_((1 / scale).float()[..., None])
    d2 = d * d
    sums = [d.sum(-1), d2.sum(-1), d.mul_(d2).sum(-1), d2.mul_(d2).sum(-1)]
    s1, s2, s3, s4 = (power.double() for power in sums)
    c = s1 / n
    fields = {
        "count": torch.full_like(s1, n),
        "nonfinite": torch.zeros_like(s1),
        "infinite": torch.zeros_like(s1),
        "scale": torch.where(constant, 0.0, scale),
        "mean": shift.double() + c * scale,
        "m2": (s2 - c * s1).clamp_(min=0),
        "m3": s3 - 3 * c * s2 + 2 * c * c * s1,
        "m4": (s4 - 4 * c * s3 + 6 * c * c * s2 - 3 * c * c * c * s1).clamp_(min=0),
        "min": low,
        "max": high,
        "negative": torch.lt(x, 0, out=d).sum(-1),
        "zero": torch.eq(x, 0, out=d2).sum(-1),
    }
    return torch.stack([fields[name].double() for name in FIELDS], -1)


def _fields(x: Tensor) -> Tensor:
    """The fields of each row of x: (..., entries) -> (..., fields)."""
    x = x.to(torch.float64)
    finite = x.isfinite()
    n = finite.sum(-1, dtype=torch.float64)
    some = n > 0
    low = torch.where(finite, x, torch.inf).amin(-1)
    high = torch.where(finite, x, -torch.inf).amax(-1)
    scale = _power_above(torch.where(finite, x, 0.0).abs().amax(-1))
    mean = (torch.where(finite, x, 0.0) / scale[..., None]).sum(-1) / n.clamp(min=1) * scale
    constant = low >= high
    mean = torch.where(constant, torch.where(some, low, 0.0), mean)
    scale = _power_above(2 * torch.maximum(high / 2 - mean / 2, mean / 2 - low / 2))
    d = torch.where(finite, x / scale[..., None] - (mean / scale)[..., None], 0.0)
    d = torch.where(constant[..., None], 0.0, d)
    c = d.sum(-1) / n.clamp(min=1)
    d = torch.where(finite, d - c[..., None], 0.0)
    fields = {
        "count": n,
        "nonfinite": (~finite).sum(-1),
        "infinite": x.isinf().sum(-1),
        "scale": torch.where(constant, 0.0, scale),
        "mean": mean + c * scale,
        "m2": (d**2).sum(-1),
        "m3": (d**3).sum(-1),
        "m4": (d**4).sum(-1),
        "min": low,
        "max": high,
        "negative": (finite & (x < 0)).sum(-1),
        "zero": (x == 0).sum(-1),
    }
    return torch.stack([fields[name].to(torch.float64) for name in FIELDS], -1)


def merge(a: Tensor, b: Tensor) -> Tensor:
    """The fields of two sets of entries together: Chan, Golub & LeVeque (1983), Pebay (2008).

    Exact to rounding in any order. (..., fields) each; a set without entries changes nothing.
    """
    na, bad_a, inf_a, scale_a, mean_a, *moments_a, low_a, high_a, neg_a, zero_a = a.unbind(-1)
    nb, bad_b, inf_b, scale_b, mean_b, *moments_b, low_b, high_b, neg_b, zero_b = b.unbind(-1)
    n = na + nb
    fa, fb = na / n.clamp(min=1), nb / n.clamp(min=1)
    both = (na > 0) & (nb > 0)
    delta = torch.where(both, mean_b - mean_a, 0.0)
    scale = torch.maximum(scale_a, scale_b)
    scale = torch.where(delta.abs() > scale, _power_above(delta.abs()), scale)
    safe = torch.where(scale > 0, scale, 1.0)
    d, r, t = delta / safe, scale_a / safe, scale_b / safe
    a2, a3, a4 = (m * r**k for k, m in enumerate(moments_a, 2))
    b2, b3, b4 = (m * t**k for k, m in enumerate(moments_b, 2))
    m2 = a2 + b2 + d**2 * na * fb
    m3 = a3 + b3 + d**3 * na * fb * (fa - fb) + 3 * d * (fa * b2 - fb * a2)
    m4 = a4 + b4 + d**4 * na * fb * (fa**2 - fa * fb + fb**2)
    m4 = m4 + 6 * d**2 * (fa**2 * b2 + fb**2 * a2) + 4 * d * (fa * b3 - fb * a3)
    mean = torch.where(na > 0, mean_a, mean_b) + delta * fb
    low, high = torch.minimum(low_a, low_b), torch.maximum(high_a, high_b)
    counts = (bad_a + bad_b, inf_a + inf_b)
    return torch.stack(
        [n, *counts, scale, mean, m2, m3, m4, low, high, neg_a + neg_b, zero_a + zero_b], -1
    )


def _power_above(value: Tensor) -> Tensor:
    """A power of two of at least about `value` (within the normal numbers; 1 for 0)."""
    normal = value.clamp(2.0**-1022, 2.0**1022)
    # not ldexp, which raises 2 to the exponent in float32
    return torch.where(value > 0, normal / torch.frexp(normal).mantissa, 1.0)


def _single(x: Tensor) -> Tensor:
    """As float32; what is finite stays finite."""
    if x.dtype == torch.float64:
        largest = torch.finfo(torch.float32).max
        x = torch.where(x.isinf(), x, x.clamp(-largest, largest))
    return x.to(torch.float32)


def _bins(patterns: Tensor, seen: Tensor, every: int) -> tuple[Tensor, Tensor]:
    """Bin and weight of what the histogram takes: every `every`-th of unit u, from its u-th on.

    Args:
        patterns: (..., units, entries) float32 as integers.
        seen: (..., units), how many entries came before.
    """
    rows, length = patterns.shape[-2:]
    start = (torch.arange(rows, device=patterns.device) - seen.to(torch.int64)) % every
    column = torch.arange(0, length, every, device=patterns.device) + start[..., None]
    inside = (column < length).to(torch.int64) * every
    leading = (patterns.gather(-1, column.clamp_(max=length - 1)) >> SHIFT).to(torch.int64)
    bins = torch.where(leading >= 0, HALF + leading, -1 - leading)
    return bins.flatten(-2), inside.flatten(-2)
