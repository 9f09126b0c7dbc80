"""Operations that choose entries, put values behind each other, or mix rows linearly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from initstats.prediction.model.products import spread
from initstats.prediction.model.signals import (
    Signal,
    columns_of,
    distinct,
    laid_out,
    layout,
    replicas,
    unit_dims,
)
from initstats.prediction.model.tables import (
    NONE,
    Claim,
    Cotangent,
    Draws,
    Table,
    Unpredicted,
    apart,
    checked,
    chosen,
    products,
)

Change = Callable[[Tensor], Tensor]


def picked(x: Signal, change: Change) -> Signal:
    """Some of the entries: of rows, of units, or both.

    Args:
        change: chooses entries of a tensor of the value's shape.
    """
    moved = x.moved(change)
    index, rows = distinct(moved.rows)
    some, units = distinct(moved.units)
    return Signal(_part(x.table, index, some), rows, units)


def unfolded(x: Signal) -> Signal:
    """The signal with a row of its own for each position, where some are copies of others."""
    table = x.table
    if x.rows.numel() == table.rows * table.units:
        return x
    dims, first = unit_dims(x), x.rows
    for dim in dims:
        first = first.narrow(dim, 0, 1)
    checked(first.numel())
    rows, _ = layout(x.rows.shape, dims)
    return Signal(_part(table, first.flatten(), torch.arange(table.units)), rows, x.units)


def _part(table: Table, index: Tensor, some: Tensor) -> Table:
    """Some rows, perhaps several times, and some units."""
    fewer = len(some) < table.units

    def columns() -> Tensor:
        wide = table.columns[index]
        if not fewer:
            return wide
        return wide.view(len(index), -1, table.units)[:, :, some].flatten(1)

    def pull(cotangent: Cotangent) -> Cotangent:
        share = len(some) / table.units

        def back() -> Tensor:
            inner = cotangent.columns
            if fewer:
                shape = len(index), inner.shape[1] // len(some), table.units
                wide = inner.new_zeros(shape)
                wide[:, :, some] = inner.view(len(index), -1, len(some))
                inner = wide.flatten(1)
            return inner.new_zeros(table.rows, inner.shape[1]).index_add_(0, index, inner)

        return Cotangent(
            lambda: share * spread(cotangent.kernel, index, table.rows),
            back,
            # gradients of different units have no products
            chosen(cotangent.back, int(some[0]), int(some[-1])) if fewer else cotangent.back,
            cotangent.seen,
            cotangent.claim,
        )

    return Table(
        len(index),
        len(some),
        lambda: table.kernel[index][:, index],
        columns,
        lambda: table.mean[index],
        table.gaussian,
        chosen(table.roots, int(some[0]), int(some[-1])) if fewer else table.roots,
        table.claim,
        [(table, pull)],
        table.function,
        lambda: table.scatter[index],
    )


def joined(values: Sequence[Signal], dim: int, draws: Draws) -> Signal:
    """Values behind each other along a dimension."""
    dim %= values[0].rows.ndim
    dims = {tuple(unit_dims(x)) for x in values}
    if len(dims) > 1:
        raise Unpredicted("values with units along different dimensions are put together")
    along = dims.pop()
    if dim in along:
        return _wider(values, dim, along, draws)
    first = values[0]
    for x in values:
        if not torch.equal(x.units.narrow(dim, 0, 1), first.units.narrow(dim, 0, 1)):
            raise Unpredicted("values with different units are put together")
    return _longer(values, dim)


def _longer(values: Sequence[Signal], dim: int) -> Signal:
    """More rows."""
    parts = [x.table for x in values]
    starts = [sum(x.rows for x in parts[:n]) for n in range(len(parts))]
    count = sum(x.rows for x in parts)
    checked(count)

    def kernel() -> Tensor:
        blocks = [[_cross(a, b) for b in parts] for a in parts]
        return torch.cat([torch.cat(row, 1) for row in blocks])

    def pull_to(number: int, start: int) -> Callable[[Cotangent], Cotangent]:
        own = slice(start, start + parts[number].rows)

        def pull(cotangent: Cotangent) -> Cotangent:
            return Cotangent(
                lambda: cotangent.kernel[own, own],
                lambda: cotangent.columns[own],
                cotangent.back,
                cotangent.seen,
                cotangent.claim,
            )

        return pull

    claim: Claim = "exact" if all(x.claim == "exact" for x in parts) else "infinite width"
    table = Table(
        count,
        parts[0].units,
        kernel,
        lambda: torch.cat([x.columns for x in parts]),
        lambda: torch.cat([x.mean for x in parts]),
        all(x.gaussian for x in parts),
        NONE.union(*(x.roots for x in parts)),
        claim,
        [(x, pull_to(n, start)) for n, (x, start) in enumerate(zip(parts, starts, strict=True))],
    )
    rows = torch.cat([x.rows + start for x, start in zip(values, starts, strict=True)], dim)
    return Signal(table, rows, torch.cat([x.units for x in values], dim))


def _cross(a: Table, b: Table) -> Tensor:
    if a is b:
        return a.kernel
    if apart(a.roots, b.roots):
        return a.mean[:, None] * b.mean
    return products(a.columns, b.columns)


def _wider(values: Sequence[Signal], dim: int, along: Sequence[int], draws: Draws) -> Signal:
    """More units, which are along some dimensions."""
    parts = [x.table for x in values]
    rows = values[0].rows.narrow(dim, 0, 1)
    for x in values:
        if x.table.rows != parts[0].rows or not torch.equal(x.rows.narrow(dim, 0, 1), rows):
            raise Unpredicted("values with different rows are put beside each other")
        if not torch.equal(x.units, layout(x.units.shape, along)[1]):
            raise Unpredicted("values with units of another order are put beside each other")
    sizes = [x.rows.shape[dim] for x in values]
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    axis, out = 2 + list(along).index(dim), torch.cat([x.rows for x in values], dim)
    units = sum(x.units for x in parts)

    def share(of: Callable[[Table], Tensor]) -> Tensor:
        return torch.stack([x.units / units * of(x) for x in parts]).sum(0)

    def columns() -> Tensor:
        shapes = ([x.rows.shape[d] for d in along] for x in values)
        pairs = zip(parts, shapes, strict=True)
        wide = [x.columns.view(x.rows, -1, *shape) for x, shape in pairs]
        return torch.cat(wide, axis).flatten(1)

    def pull_to(start: int, size: int) -> Callable[[Cotangent], Cotangent]:
        def pull(cotangent: Cotangent) -> Cotangent:
            def own() -> Tensor:
                shape = [out.shape[d] for d in along]
                wide = cotangent.columns.view(len(cotangent.columns), -1, *shape)
                return wide.narrow(axis, start, size).flatten(1)

            return Cotangent(None, own, cotangent.back, cotangent.seen)

        return pull

    table = Table(
        parts[0].rows,
        units,
        lambda: share(lambda x: x.kernel),
        columns,
        lambda: share(lambda x: x.mean),
        False,
        NONE.union(*(x.roots for x in parts)),
        "exact" if all(x.claim == "exact" for x in parts) else "infinite width",
        [(x, pull_to(*part)) for x, *part in zip(parts, starts, sizes, strict=True)],
    )
    draws.expect(table, *parts)
    return Signal(table, out, layout(out.shape, along)[1])


def mixed(x: Signal, function: Change, shape: Sequence[int]) -> Signal:
    """A linear function of the rows, alike for all units, as a mean over positions is.

    Args:
        function: of a tensor of the value's shape; it may have one unit only.
        shape: of what it makes.
    """
    dims, one = unit_dims(x), x.rows
    for dim in dims:
        one = one.narrow(dim, 0, 1)
    small = function(torch.zeros(one.shape, dtype=torch.float64)).shape
    pairs = enumerate(zip(shape, small, strict=True))
    dims_out = [dim for dim, (size, single) in pairs if size != single]
    if math.prod(shape[dim] for dim in dims_out) != x.table.units:
        raise Unpredicted("it mixes units")
    rows = math.prod(size for dim, size in enumerate(shape) if dim not in dims_out)
    checked(rows)
    table = x.table
    matrix: list[Tensor] = []

    def map_of() -> Tensor:
        if not matrix:
            eye = torch.eye(table.rows, dtype=torch.float64)[:, one]
            matrix.append(torch.vmap(function)(eye).reshape(table.rows, rows).T.contiguous())
        return matrix[0]

    def pull(cotangent: Cotangent) -> Cotangent:
        return Cotangent(
            lambda: map_of().T @ cotangent.kernel @ map_of(),
            lambda: map_of().T.float() @ cotangent.columns,
            cotangent.back,
            cotangent.seen,
            cotangent.claim,
        )

    made = Table(
        rows,
        table.units,
        lambda: map_of() @ table.kernel @ map_of().T,
        lambda: map_of().float() @ table.columns,
        lambda: map_of() @ table.mean,
        table.gaussian,
        table.roots,
        # a mean over rows reads products of rows, of which only Gaussian ones are exact
        table.claim if table.gaussian else "infinite width",
        [(table, pull)],
    )
    return laid_out(made, shape, dims_out)


def copied(
    values: Sequence[Signal],
    function: Callable[..., Tensor],
    shape: Sequence[int],
    dims: Sequence[int],
    draws: Draws,
) -> Signal:
    """What a function of whole tensors makes of copies of values, drawn as their columns are.

    Args:
        function: of as many tensors as there are values.
        shape, dims: of its result, and the dimensions along which its units are.
    """
    parts = [x.table for x in values]
    rows = math.prod(size for dim, size in enumerate(shape) if dim not in dims)
    units = math.prod(shape[dim] for dim in dims)
    kept: list[tuple[list[Tensor], Tensor]] = []

    def run() -> tuple[list[Tensor], Tensor]:
        if not kept:
            with torch.enable_grad():
                wholes = [x.columns.detach().requires_grad_() for x in parts]
                pairs = zip(values, wholes, strict=True)
                inputs = [replicas(Signal(_held(x.table, c), x.rows, x.units)) for x, c in pairs]
                made = torch.vmap(function)(*inputs)
                kept.append((wholes, columns_of(made, dims)))
        return kept[0]

    done: dict[int, list[Tensor]] = {}

    def gradients(cotangent: Cotangent) -> list[Tensor]:
        if id(cotangent) not in done:
            wholes, made = run()
            sent = cotangent.columns.to(made.dtype)
            done[id(cotangent)] = list(torch.autograd.grad(made, wholes, sent, retain_graph=True))
        return done[id(cotangent)]

    roots = NONE.union(*(x.roots for x in parts))

    def pull_to(number: int) -> Callable[[Cotangent], Cotangent]:
        def pull(cotangent: Cotangent) -> Cotangent:
            return Cotangent(
                None,
                lambda: gradients(cotangent)[number],
                cotangent.back,
                cotangent.seen | roots,
            )

        return pull

    table = Table(
        rows,
        units,
        None,
        lambda: run()[1].detach(),
        roots=roots,
        parents=[(x, pull_to(number)) for number, x in enumerate(parts)],
    )
    draws.expect(table, *parts)
    return laid_out(table, shape, dims)


def _held(table: Table, columns: Tensor) -> Table:
    return Table(table.rows, table.units, None, lambda: columns)
