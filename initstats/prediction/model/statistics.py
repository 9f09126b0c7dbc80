"""Statistics of a value over its entries, as the probe has them, from what theory knows of rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from initstats.prediction.model.signals import Signal, distinct
from initstats.prediction.model.tables import Claim, Cotangent, Table

_SLICES = 64  # most units of a tensor that are looked at one by one


@dataclass(frozen=True)
class Moments:
    """Second moment, correlation of two entries of a unit, and in which sense they hold."""

    square: float = math.nan
    correlation: float = math.nan
    claim: Claim = "infinite width"
    note: str = ""


def moments_of(
    x: Signal, axis: int, squares: Tensor, of: Table | Cotangent, claim: Claim
) -> Moments:
    """The moments of a tensor.

    Args:
        axis: dimension of what the probe takes for its units.
        squares: second moments of its rows.
        of: what has the products of rows.
    """
    square = float(squares[x.rows].mean())
    if not math.isfinite(square):
        return Moments(note="it leaves the range of numbers")
    rows, units = (_by_unit(i, axis) for i in (x.rows, x.units))
    count = rows.shape[1]
    if count < 2 or not square > 0:
        return Moments(square, math.nan, claim)
    among = units - units[:, :1]
    if (rows == rows[:1]).all() and (among == among[:1]).all():  # all are alike
        rows, units = rows[:1], units[:1]
    every = max(len(rows) // _SLICES, 1)
    sums, seen = 0.0, 0.0
    for r, u in zip(rows[::every], units[::every], strict=True):
        sums += _mean_product(r, u, x.table, of)
        seen += float(squares[r].mean())
    n = len(rows[::every])
    mean, size = sums / n, seen / n
    return Moments(square, (mean - (size - mean) / (count - 1)) / size, claim)


def moments_of_data(x: Tensor, axis: int) -> Moments:
    """The moments of a tensor whose values are known."""
    values = _by_unit(x.double(), axis)
    square = float(values.square().mean())
    if not math.isfinite(square):
        return Moments(note="its values are not finite, or there are none")
    count = values.shape[1]
    if count < 2 or not square > 0:
        return Moments(square, math.nan, "exact")
    mean = float(values.mean(1).square().mean())
    return Moments(square, (mean - (square - mean) / (count - 1)) / square, "exact")


def _mean_product(rows: Tensor, units: Tensor, table: Table, of: Table | Cotangent) -> float:
    """Mean product of two entries of a unit, each with itself among them."""
    groups, group = distinct(units)
    share = torch.zeros(len(groups), table.rows, dtype=torch.float64)
    share.index_put_((group, rows), torch.tensor(1 / len(rows)).double(), accumulate=True)
    if of.kernel_of is None:
        within = float((share.float() @ of.columns).double().square().mean(1).sum())
    else:
        within = float(((share @ of.kernel) * share).sum())
    if len(groups) == 1 or isinstance(of, Cotangent):
        return within
    means = share @ of.mean
    return within + float(means.sum() ** 2 - means.square().sum())


def _by_unit(x: Tensor, axis: int) -> Tensor:
    if not x.ndim:
        return x.reshape(1, 1)
    return x.movedim(axis, 0).flatten(1) if x.ndim > 1 else x[:, None]
