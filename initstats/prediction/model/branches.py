"""Sums of branches.

Values made of different draws of weights are independent, unit by unit, so that their kernels add.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from initstats.prediction.model.pointwise import Aligned, aligned, then_spread
from initstats.prediction.model.signals import Signal
from initstats.prediction.model.tables import (
    NONE,
    Claim,
    Cotangent,
    Table,
    apart,
    products,
)


def added(values: Sequence[Signal], signs: Sequence[float]) -> Signal:
    """A sum of values, each times a number."""
    place = aligned(values)
    parts = [x.table for x in values]
    one, other = parts[0], parts[-1]
    independent = len(parts) == 1 or apart(one.roots, other.roots)

    def kernel() -> Tensor:
        pairs = zip(parts, place.indices, signs, strict=True)
        total = sum(s * s * x.kernel[i][:, i] for x, i, s in pairs)
        assert isinstance(total, Tensor)
        if len(parts) == 2:
            a, b = place.indices
            if independent:
                cross = one.mean[a][:, None] * other.mean[b]
            else:
                cross = products(one.columns[a], other.columns[b])
            total = total + signs[0] * signs[1] * (cross + cross.T)
        return total

    def columns() -> Tensor:
        total = sum(s * x.columns[i] for x, i, s in zip(parts, place.indices, signs, strict=True))
        assert isinstance(total, Tensor)
        return total

    def mean() -> Tensor:
        total = sum(s * x.mean[i] for x, i, s in zip(parts, place.indices, signs, strict=True))
        assert isinstance(total, Tensor)
        return total

    exact = independent and all(x.claim == "exact" for x in parts)
    exact &= len(parts) == 1 or any(x.gaussian for x in parts)  # else means come in
    claim: Claim = "exact" if exact else "infinite width"
    gaussian = all(x.gaussian for x in parts)
    roots = NONE.union(*(x.roots for x in parts))
    table = Table(place.count, one.units, kernel, columns, mean, gaussian, roots, claim)
    if independent and len(parts) == 2:
        table.scatter_of = lambda: _scatter(parts, place, signs)
    for x, index, sign in zip(parts, place.indices, signs, strict=True):
        table.parents.append((x, then_spread(partial(Cotangent.scaled, factor=sign), index, x)))
    return Signal(table, place.rows, place.units)


def _scatter(parts: list[Table], place: Aligned, signs: Sequence[float]) -> Tensor:
    """The scatter of a sum of independent values: that of both, and of their product."""
    (q, a), (v, b) = (
        (s * s * x.square[i], x.scatter[i])
        for x, i, s in zip(parts, place.indices, signs, strict=True)
    )
    return (a * q**2 + 4 * q * v + b * v**2) / ((q + v) ** 2).clamp(min=1e-300)
