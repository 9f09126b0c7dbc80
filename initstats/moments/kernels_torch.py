"""Statistics kernels in torch: the reference for the numba kernels, and the way on other devices.

Same contract, and two ways. The careful one takes any values in float64, and everything stays on
the tensor's device: nothing waits for the host. The quick one is for ordinary float32 on the CPU,
where torch and numpy share memory: each operation is the faster library's.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initstats.moments.histogram import HALF, SHIFT
from initstats.moments.table import BINS, FIELDS

Array = NDArray[Any]
MAGNITUDE = 2**31 - 1
"""All bits of a float32 but its sign."""
RUN = 2048
"""Products that are added up in float32 before float64 takes over, so that little is rounded."""
BYTE = 255
"""The largest count that a byte holds."""
NEAR_ONE = 20
"""Deviations within this power of two of 1 need no scale: float32 holds their fourth powers."""


def add(units: Tensor, histogram: Tensor, x: Tensor, every: int) -> None:
    """Add a tile to the fields of its units and to the histogram, in place.

    Args:
        units: (..., units, fields) float64; of each unit as many entries were seen.
        histogram: (..., BINS) int64.
        x: (..., units, entries), any floating type, on the same device.
        every: one entry in `every` goes into the histogram, with that weight.
    """
    fields = _quick_fields(x) if x.device.type == "cpu" and x.dtype == torch.float32 else None
    if fields is not None:
        _add_quickly(units, histogram, x, every, fields)
    else:
        seen = units[..., FIELDS.index("count")] + units[..., FIELDS.index("nonfinite")]
        histogram.scatter_add_(-1, *_bins(_single(x).view(torch.int32), seen, every))
        units.copy_(merge(units, _fields(x)))


def _add_quickly(
    units: Tensor, histogram: Tensor, x: Tensor, every: int, fields: dict[str, Any]
) -> None:
    """See `add`; fields of x by name, of all rows of all slots."""
    known = units.view(-1, len(FIELDS)).numpy().T
    seen = known[FIELDS.index("count")] + known[FIELDS.index("nonfinite")]
    tiles = x.reshape(-1, *x.shape[-2:]).numpy()
    counts = histogram.view(-1, BINS).numpy()
    for slot, tile in enumerate(tiles):
        _count_bins(counts[slot], tile, int(seen[slot * len(tile)]), every)
    sets = np.empty((len(FIELDS), 2, len(seen)))
    sets[:, 0] = known
    for field, name in zip(sets[:, 1], FIELDS, strict=True):
        field[...] = fields[name]
    known[...] = _merged(np, sets)


def _quick_fields(x: Tensor) -> dict[str, Any] | None:
    """The fields of each row of x, in float32 like the numba kernels; None where it is not enough.

    For the CPU alone: elsewhere, to look at the values would be to wait for the device.
    """
    x = x.flatten(0, -2)
    n = x.shape[1]
    low, high, total = x.amin(1).numpy(), x.amax(1).numpy(), x.sum(1).numpy()
    mean, constant = total / np.float32(n), low == high
    with np.errstate(over="ignore", invalid="ignore"):
        reach = np.maximum(high - mean, mean - low)
    most = reach.max()  # NaN where an entry is, or where the sum overflows
    reach += constant
    least = reach.min()
    if not (least > 2.0**-100 and most < 2.0**110 and n <= 2**24):
        return None
    shift = np.minimum(np.maximum(mean, low), high)
    plain = least > 2.0**-NEAR_ONE and most < 2.0**NEAR_ONE
    exponent = np.zeros(len(x), np.intc) if plain else np.frexp(reach)[1]
    scale = np.ldexp(1.0, exponent)
    s1, s2, s3, s4 = _power_sums(x, shift, exponent)
    negative, zero = _count_signs(x.numpy())
    c = s1 / n
    m2 = s2 - c * s1
    return {
        "count": n,
        "nonfinite": 0,
        "infinite": 0,
        "scale": scale * ~constant,
        "mean": shift + c * scale,
        "m2": np.maximum(m2, 0),
        "m3": s3 - c * (s2 + 2 * m2),
        "m4": np.maximum(s4 - c * (4 * s3 - 3 * c * (s2 + m2)), 0),
        "min": low,
        "max": high,
        "negative": negative,
        "zero": zero,
    }


def _power_sums(x: Tensor, shift: Array, exponent: Array) -> list[Array]:
    """Sums of d, d^2, d^3, d^4 over each row, d = (x - shift) / 2^exponent."""
    rows, n = x.shape
    runs = -(-n // RUN)
    length = -(-n // runs)
    d = torch.empty(rows, runs * length)
    first = d.numpy()
    first[:, n:] = 0
    torch.sub(x, torch.from_numpy(shift)[:, None], out=d[:, :n])
    if exponent.any():
        d *= torch.from_numpy(np.ldexp(np.float32(1), -exponent))[:, None]
    d2 = d * d
    sums = [power.sum(1).numpy().astype(np.float64) for power in (d, d2)]
    # BLAS adds products up as it reads them, but in float32, and long rows on several threads
    first, second = (some.reshape(rows, runs, length) for some in (first, d2.numpy()))
    products = np.vecdot(first, second), np.vecdot(second, second)
    return sums + [by_run.sum(1, dtype=np.float64) for by_run in products]


def _count_signs(x: Array) -> Array:
    """How many entries of each row are negative, and how many are zero, (2, rows)."""
    rows, n = x.shape
    words = -(-n // 8)
    marks = np.empty((2, rows, 8 * words), np.bool_)
    marks[..., n:] = False
    np.less(x, 0, out=marks[0, :, :n])
    np.equal(x, 0, out=marks[1, :, :n])
    # eight marks to a word, whose bytes count apart until one might overflow
    counts = np.add.reduceat(marks.view(np.uint64), range(0, words, BYTE), axis=-1)
    total: Array = counts.view(np.uint8).sum(-1)
    return total


def _count_bins(histogram: Array, x: Array, seen: int, every: int) -> None:
    """Every `every`-th entry of unit u, from its u-th on, into the bins of its leading bits.

    Args:
        histogram: (BINS,) int64. What is empty is left alone, and takes no memory.
        x: (units, entries) float32.
        seen: how many entries of each unit came before.
    """
    patterns, alike = x.view(np.int32), range(min(every, len(x)))
    taken = np.concatenate(
        [patterns[u::every, (u - seen) % every :: every].ravel() for u in alike]
    ).view(np.uint32)
    taken >>= SHIFT
    counts = torch.bincount(torch.from_numpy(taken.view(np.int32))).numpy()
    hit = np.flatnonzero(counts != 0)
    histogram[np.where(hit < HALF, HALF + hit, BINS - 1 - hit)] += every * counts[hit]


def _fields(x: Tensor) -> Tensor:
    """The fields of each row of x: (..., entries) -> (..., fields)."""
    x = x.to(torch.float64)
    finite = x.isfinite()
    n = finite.sum(-1, dtype=torch.float64)
    some = n > 0
    low = torch.where(finite, x, torch.inf).amin(-1)
    high = torch.where(finite, x, -torch.inf).amax(-1)
    scale = _power_below(torch, torch.where(finite, x, 0.0).abs().amax(-1))
    mean = (torch.where(finite, x, 0.0) / scale[..., None]).sum(-1) / n.clamp(min=1) * scale
    constant = low >= high
    mean = torch.where(constant, torch.where(some, low, 0.0), mean)
    reach = torch.maximum(high / 2 - mean / 2, mean / 2 - low / 2)
    scale = _power_below(torch, torch.where(constant, 0.0, reach))
    d = torch.where(finite, x / scale[..., None] - (mean / scale)[..., None], 0.0)
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
    merged: Tensor = _merged(torch, torch.stack((a, b)).movedim(-1, 0)).movedim(0, -1)
    return merged


def _merged(library: ModuleType, sets: Any) -> Any:
    """See `merge`: (fields, 2, ...), overwritten, to (fields, ...); an array of the library."""
    n, _, _, scale, mean, m2, m3, m4, low, high, *_ = sets
    total = n[0] + n[1]
    delta = mean[1] - mean[0]
    joint = mean[0] + delta * (n[1] / (total + (total == 0)))
    reach = library.maximum(library.maximum(scale[0], scale[1]), abs(delta) * (n[0] * n[1] > 0))
    power = _power_below(library, reach)
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
    merged[FIELDS.index("min")] = library.minimum(low[0], low[1])
    merged[FIELDS.index("max")] = library.maximum(high[0], high[1])
    return merged


def _power_below(library: ModuleType, value: Any) -> Any:
    """The largest power of two up to `value`; 1 for 0."""
    value = value + (value == 0)
    # not ldexp, which raises 2 to the exponent in float32
    return value / (2 * library.frexp(value)[0])


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
