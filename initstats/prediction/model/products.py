"""Products of a value with new weights: linear maps, convolutions, embeddings.

Each output is a sum over fan-in independent terms, so that the kernel that comes out is fan_in
times Var W times the mean of the kernel over what is summed, plus the bias (Poole et al. 2016); the
way back is the same with fan-out (Schoenholz et al. 2017), the weights on the way back counting as
independent of those on the way there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad, unfold

from initstats.prediction.model.laws import Law
from initstats.prediction.model.signals import (
    Given,
    Signal,
    laid_out,
    varies,
)
from initstats.prediction.model.tables import NONE, Cotangent, Draws, Table, Unpredicted, checked


@dataclass(frozen=True)
class Sums:
    """Which rows each output sums.

    Attributes:
        patterns: for each term (of several units alike), the row of each output; one behind the
            last where there is none; and how many units it has.
        groups: parts of the units that are summed apart.
    """

    patterns: list[tuple[Tensor, int]]
    groups: int = 1


def product(
    x: Signal | Given,
    sums: Sums | Tensor,
    shape: Sequence[int],
    made: int,
    weight: Law,
    bias: Law | None,
    draws: Draws,
) -> Signal:
    """The output of a product with weights.

    Args:
        sums: which rows are summed; of data, the inputs of each output (outputs, inputs).
        shape: of the output.
        made: its dimension of units.
        weight, bias: the laws of both.
    """
    units = shape[made]
    rows = math.prod(shape) // units
    checked(rows)
    key = draws.key()
    added = bias or Law(0.0)

    def kernel() -> Tensor:
        if isinstance(sums, Tensor):
            return weight.square * (sums @ sums.T) + added.square
        assert isinstance(x, Signal)
        seen = pad(x.table.kernel, (0, 1, 0, 1))
        total = torch.zeros(rows, rows, dtype=torch.float64)
        for index, count in sums.patterns:
            total += count / sums.groups * seen[index][:, index]
        return weight.square * total + added.square

    def pull(cotangent: Cotangent) -> Cotangent:
        assert isinstance(x, Signal)
        assert isinstance(sums, Sums)
        return _pulled(cotangent, x.table, units, sums, weight, draws)

    claim = x.table.claim if isinstance(x, Signal) else "exact"
    table = Table(
        rows,
        units,
        kernel,
        lambda: _drawn(table, added.mean, draws, key),
        lambda: torch.full((rows,), added.mean, dtype=torch.float64),
        gaussian=added.mean == 0,
        roots=frozenset([(key, ())]),
        claim=claim,
        parents=[(x.table, pull)] if isinstance(x, Signal) else [],
    )
    return laid_out(table, shape, [made])


def _pulled(
    cotangent: Cotangent, table: Table, units: int, sums: Sums, weight: Law, draws: Draws
) -> Cotangent:
    """The gradient of what a product read, from that of its output."""

    def before() -> Tensor:
        total = torch.zeros(table.rows + 1, table.rows + 1, dtype=torch.float64)
        for index, count in sums.patterns:
            part = units / sums.groups * count / table.units
            total += part * spread(cotangent.kernel, index, table.rows + 1)
        return weight.square * total[:-1, :-1]

    own = draws.key()
    result = Cotangent(
        before,
        lambda: draws.normal(result.kernel, table.units, own),
        frozenset([(own, ())]),
        NONE,
        cotangent.claim,
    )
    return result


def _drawn(table: Table, mean: float, draws: Draws, key: int) -> Tensor:
    return draws.normal(table.kernel - mean**2, table.units, key) + mean


def spread(kernel: Tensor, index: Tensor, rows: int) -> Tensor:
    """Products of gradients of rows, from those of what has read these rows, (rows, rows)."""
    half = kernel.new_zeros(rows, len(kernel)).index_add_(0, index, kernel)
    return kernel.new_zeros(rows, rows).index_add_(1, index, half)


def terms(x: Signal, summed: int) -> Sums:
    """What a sum over one dimension reads, for the outputs in the order of the others.

    Raises:
        Unpredicted: outputs sum different units.
    """
    rows, units = (i.movedim(summed, -1) for i in (x.rows, x.units))
    rows, units = (i.reshape(-1, i.shape[-1]) for i in (rows, units))
    if (units != units[:1]).any():
        raise Unpredicted("different outputs sum different units")
    if (rows == rows[:, :1]).all():
        return Sums([(rows[:, 0], rows.shape[1])])
    distinct, counts = torch.unique(rows, dim=1, return_counts=True)
    return Sums([(distinct[:, n], int(count)) for n, count in enumerate(counts)])


def patches(
    x: Signal, kernel: Sequence[int], options: Sequence[Sequence[int]], groups: int
) -> Sums:
    """What each output of a convolution over two dimensions reads.

    Args:
        x: (samples, channels, height, width).
        options: stride, padding and dilation.
    """
    if varies(x.rows)[1] or any(v for dim, v in enumerate(varies(x.units)) if dim != 1):
        raise Unpredicted("the channels of a convolution are not its units")
    stride, padding, dilation = options
    seen = x.rows[:, :1].double() + 1  # 0 is where there is nothing
    found = unfold(
        seen, (*kernel,), (*dilation,), (*padding,), (*stride,)
    )  # (samples, taps, positions)
    index = found.long().permute(1, 0, 2).flatten(1) - 1
    index[index < 0] = x.table.rows
    return Sums([(each, x.rows.shape[1]) for each in index], groups)
