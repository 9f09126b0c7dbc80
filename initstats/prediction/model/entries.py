"""What is drawn entry by entry: the masks of dropout, and parameters that are in no product."""

from __future__ import annotations

import torch
from torch import Tensor

from initstats.prediction.model.laws import Law
from initstats.prediction.model.signals import Signal, broadcast, distinct, unit_dims
from initstats.prediction.model.tables import Cotangent, Draws, Table, Unpredicted, apart


def dropped(x: Signal, keep: float, draws: Draws) -> Signal:
    """Entries that are 0, or divided by the probability to be kept, each by itself."""
    apart_rows = x.rows if len(distinct(x.rows)[0]) * x.table.units == x.rows.numel() else None
    if apart_rows is None:
        raise Unpredicted("dropout of entries that are copies of others")
    table, key = x.table, draws.key()
    own = frozenset([(key, ())])
    mask: list[Tensor] = []
    draws.expect(table)

    def masks() -> Tensor:
        if not mask:
            generator = torch.Generator().manual_seed(7919 * key + 2)
            shape = table.rows, draws.copies * table.units
            mask.append((torch.rand(shape, generator=generator) < keep).float() / keep)
        return mask[0]

    def thinned(kernel: Tensor) -> Tensor:
        return kernel + (1 / keep - 1) * torch.diag(kernel.diagonal())

    def pull(cotangent: Cotangent) -> Cotangent:
        independent = apart(cotangent.seen, own)
        return Cotangent(
            (lambda: thinned(cotangent.kernel)) if independent else None,
            lambda: cotangent.columns * masks(),
            cotangent.back,
            cotangent.seen | own,
            cotangent.claim,
        )

    made = Table(
        table.rows,
        table.units,
        lambda: thinned(table.kernel),
        lambda: table.columns * masks(),
        lambda: table.mean,
        roots=table.roots | own,
        claim=table.claim,
        parents=[(table, pull)],
    )
    return Signal(made, x.rows, x.units)


def scattered(weight: Tensor, law: Law, like: Signal, draws: Draws) -> Signal:
    """The entries of a parameter that a value meets entry by entry, each drawn by itself.

    Args:
        weight: broadcasts with the value.
        like: the value.
    """
    shape = broadcast(weight.shape, like.rows.shape)
    dims = unit_dims(Signal(like.table, like.rows.expand(shape), like.units.expand(shape)))
    first = _places(weight).expand(shape)
    entries = len(distinct(first)[0])
    for dim in dims:
        first = first.narrow(dim, 0, 1)
    labels, rows = distinct(first)
    count, units, key = len(labels), like.table.units, draws.key()
    if count * units != entries:
        raise Unpredicted("a parameter has not an entry for every unit")
    spread_out = law.square - law.mean**2

    def kernel() -> Tensor:
        return spread_out * torch.eye(count, dtype=torch.float64) + law.mean**2

    table = Table(
        count,
        units,
        kernel,
        lambda: draws.normal(spread_out * torch.eye(count).double(), units, key) + law.mean,
        lambda: torch.full((count,), law.mean, dtype=torch.float64),
        gaussian=law.mean == 0,
        roots=frozenset([(key, ())]),
        claim="exact",
    )
    return Signal(table, rows.expand(shape), like.units.expand(shape))


def _places(x: Tensor) -> Tensor:
    """Where the entries of a tensor lie in memory: copies that were expanded lie where it does."""
    place = torch.zeros(x.shape, dtype=torch.int64)
    for dim, (size, step) in enumerate(zip(x.shape, x.stride(), strict=True)):
        place += (step * torch.arange(size)).view(-1, *[1] * (x.ndim - dim - 1))
    return place
