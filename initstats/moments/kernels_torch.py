"""Statistics kernels in torch: the reference for the numba kernels, and the way on other devices.

Same contract, no synchronization with the host: everything stays on the tensor's device. On the CPU
numpy does what is short, a number a unit: its calls cost a third of torch's.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initstats.moments.histogram import HALF, SHIFT
from initstats.moments.table import FIELDS

Array = NDArray[Any]
MAGNITUDE = 2**31 - 1
"""All bits of a float32 but its sign."""


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
    low, high, total = (some.numpy() for some in (x.amin(-1), x.amax(-1), x.sum(-1)))
    reach, constant = np.maximum(-low, high), low == high
    if n > 2**24 or not ((reach < 2.0**110) & (constant | (reach > 2.0**-100))).all():
        return None
    shift = np.clip(total / np.float32(n), low, high)
    scale = _power_above(np, np.maximum(high - shift, shift - low).astype(np.float64))
    sums = _power_sums(x, shift, (1 / scale).astype(np.float32))
    s1, s2, s3, s4, balance, others = sums.numpy().astype(np.float64)
    c = s1 / n
    m2 = s2 - c * s1
    fields = {
        "count": np.full_like(c, n),
        "nonfinite": np.zeros_like(c),
        "infinite": np.zeros_like(c),
        "scale": np.where(constant, 0.0, scale),
        "mean": shift + c * scale,
        "m2": m2.clip(min=0),
        "m3": s3 - c * (s2 + 2 * m2),
        "m4": (s4 - c * (4 * s3 - 3 * c * (s2 + m2))).clip(min=0),
        "min": low,
        "max": high,
        "negative": (others - balance) / 2,
        "zero": n - others,
    }
    return torch.from_numpy(np.stack([fields[name] for name in FIELDS], -1))


def _power_sums(x: Tensor, shift: Array, inverse: Array) -> Tensor:
    """Sums of d, d^2, d^3, d^4 over each row, of the signs of x and of their magnitudes.

    d = (x - shift) * inverse.
    """
    d = x - torch.from_numpy(shift)[..., None]
    d *= torch.from_numpy(inverse)[..., None]
    d2 = d * d
    powers = [d.sum(-1), d2.sum(-1), d.mul_(d2).sum(-1), d2.mul_(d2).sum(-1)]
    signs = torch.sign(x, out=d)
    return torch.stack([*powers, signs.sum(-1), signs.abs_().sum(-1)])


def _fields(x: Tensor) -> Tensor:
    """The fields of each row of x: (..., entries) -> (..., fields)."""
    x = x.to(torch.float64)
    finite = x.isfinite()
    n = finite.sum(-1, dtype=torch.float64)
    some = n > 0
    low = torch.where(finite, x, torch.inf).amin(-1)
    high = torch.where(finite, x, -torch.inf).amax(-1)
    scale = _power_above(torch, torch.where(finite, x, 0.0).abs().amax(-1))
    mean = (torch.where(finite, x, 0.0) / scale[..., None]).sum(-1) / n.clamp(min=1) * scale
    constant = low >= high
    mean = torch.where(constant, torch.where(some, low, 0.0), mean)
    scale = _power_above(torch, 2 * torch.maximum(high / 2 - mean / 2, mean / 2 - low / 2))
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
    if a.device.type != "cpu":
        return cast(Tensor, _merged(torch, a, b))
    with np.errstate(all="ignore"):
        return torch.from_numpy(_merged(np, a.numpy(), b.numpy()))


def _merged(library: ModuleType, a: Any, b: Any) -> Any:
    """See `merge`; the library is the arrays' own, numpy or torch."""
    a, b = library.moveaxis(a, -1, 0), library.moveaxis(b, -1, 0)
    na, bad_a, inf_a, scale_a, mean_a, *moments_a, low_a, high_a, neg_a, zero_a = a
    nb, bad_b, inf_b, scale_b, mean_b, *moments_b, low_b, high_b, neg_b, zero_b = b
    n = na + nb
    some = library.clip(n, 1, None)
    fa, fb = na / some, nb / some
    both = (na > 0) & (nb > 0)
    delta = library.where(both, mean_b - mean_a, 0.0)
    scale = library.maximum(scale_a, scale_b)
    scale = library.where(abs(delta) > scale, _power_above(library, abs(delta)), scale)
    safe = library.where(scale > 0, scale, 1.0)
    d, r, t = delta / safe, scale_a / safe, scale_b / safe
    r2, t2, d2 = r * r, t * t, d * d
    a2, a3, a4 = (m * power for m, power in zip(moments_a, (r2, r2 * r, r2 * r2), strict=True))
    b2, b3, b4 = (m * power for m, power in zip(moments_b, (t2, t2 * t, t2 * t2), strict=True))
    between = d2 * na * fb
    m2 = a2 + b2 + between
    m3 = a3 + b3 + d * (between * (fa - fb) + 3 * (fa * b2 - fb * a2))
    m4 = a4 + b4 + d2 * (between * (1 - 3 * fa * fb) + 6 * (fa * fa * b2 + fb * fb * a2))
    m4 = m4 + 4 * d * (fa * b3 - fb * a3)
    mean = library.where(na > 0, mean_a, mean_b) + delta * fb
    low, high = library.minimum(low_a, low_b), library.maximum(high_a, high_b)
    counts = (bad_a + bad_b, inf_a + inf_b)
    return library.stack(
        [n, *counts, scale, mean, m2, m3, m4, low, high, neg_a + neg_b, zero_a + zero_b], -1
    )


def _power_above(library: ModuleType, value: Any) -> Any:
    """A power of two of at least about `value` (within the normal numbers; 1 for 0)."""
    normal = library.clip(value, 2.0**-1022, 2.0**1022)
    # not ldexp, which raises 2 to the exponent in float32
    return library.where(value > 0, normal / library.frexp(normal)[0], 1.0)


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
    weight = torch.full_like(column, every)
    weight[..., -1] *= column[..., -1] < length  # only the last may lie outside
    column[..., -1].clamp_(max=length - 1)
    taken = patterns.gather(-1, column)
    ascending = (taken >> 31).bitwise_and_(MAGNITUDE).bitwise_xor_(taken)  # as integers
    bins = (ascending >> SHIFT).to(torch.int64).add_(HALF)
    return bins.flatten(-2), weight.flatten(-2)
