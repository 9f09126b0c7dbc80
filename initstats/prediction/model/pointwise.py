"""Functions of every entry for itself: activations and gates.

A function of one Gaussian value has a kernel by theory. Functions of several values, or of what is
not Gaussian, are computed on columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from initstats.prediction.model.kernels import Response, two_slopes
from initstats.prediction.model.products import spread
from initstats.prediction.model.signals import (
    Signal,
    broadcast,
    distinct,
)
from initstats.prediction.model.tables import (
    NONE,
    Cotangent,
    Draws,
    Pull,
    Roots,
    Table,
    Unpredicted,
    apart,
    checked,
    products,
)

Function = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Aligned:
    """Values entry by entry beside each other.

    Attributes:
        indices: for each value, its row at every row of the result.
        rows, units: for each entry of the result.
        count: the number of rows of the result.
    """

    indices: list[Tensor]
    rows: Tensor
    units: Tensor
    count: int


def aligned(values: Sequence[Signal]) -> Aligned:
    """Values of shapes that broadcast, with the same units.

    Raises:
        Unpredicted: their units are not the same.
    """
    shape = broadcast(*(x.rows.shape for x in values))
    widest = max(values, key=lambda x: x.table.units)
    units = widest.units.expand(shape)
    for x in values:
        if x.table.units == 1:
            continue  # one number for all units
        if x.table.units != widest.table.units or (x.units.expand(shape) != units).any():
            raise Unpredicted("values with different units are put together")
    rows = [x.rows.expand(shape) for x in values]
    if all((each == rows[0]).all() for each in rows):
        index = torch.arange(values[0].table.rows)
        if all(x.table.rows == len(index) for x in values):
            return Aligned([index] * len(values), rows[0], units, len(index))
    code = rows[0]
    for x, each in zip(values[1:], rows[1:], strict=True):
        code = code * x.table.rows + each
    seen, which = distinct(code)
    count, indices = len(seen), []
    checked(count)
    for x in reversed(values[1:]):
        indices.append(seen % x.table.rows)
        seen = seen // x.table.rows
    return Aligned([seen, *reversed(indices)], which.view(shape), units, count)


def applied(
    function: Function, values: Sequence[Signal], constants: Sequence[Tensor], draws: Draws
) -> Signal:
    """An elementwise function of some values, and of constants.

    Args:
        function: of as many tensors as there are values and constants, in this order.
        constants: tensors that broadcast to the result.
    """
    place = aligned(values)
    wide = [c for c in constants if c.numel() > 1]
    few = [_by_row(c, place) for c in constants]
    parts = [x.table for x in values]
    if len(values) == 1 and parts[0].gaussian and not wide:
        scalars = [c.double().reshape(()) for c in constants]
        table = _of_one(lambda x: function(x, *scalars), parts[0])
        return Signal(table, values[0].rows, values[0].units)
    made = _of_columns(function, parts, place, few)
    draws.expect(made, *parts)
    return Signal(made, place.rows, place.units)


def _of_one(function: Function, x: Table) -> Table:
    response: list[Response] = []

    def found() -> Response:
        if not response:
            response.append(Response(function, x.kernel))
        return response[0]

    def slopes() -> Tensor:
        with torch.enable_grad():
            at = x.columns.detach().requires_grad_()
            y = function(at.clone())
            return torch.autograd.grad(y.sum(), at)[0] if y.requires_grad else torch.zeros_like(at)

    shaped = two_slopes(function)
    return Table(
        x.rows,
        x.units,
        lambda: found().kernel,
        lambda: function(x.columns.clone()),
        lambda: found().mean,
        gaussian=shaped is not None and shaped[1] == 0,
        roots=x.roots,
        claim=x.claim if shaped is not None else "infinite width",
        parents=[(x, _slope_pull(x.roots, lambda: found().slopes, slopes))],
        function=function,
    )


def _slope_pull(
    roots: Roots,
    products_of: Callable[[], Tensor],
    slopes: Callable[[], Tensor],
) -> Pull:
    """How a gradient goes back through a function whose slopes are known.

    Args:
        roots: what the slopes are made of.
        products_of: computes the mean products of the slopes of all pairs of rows.
        slopes: computes columns of slopes.
    """

    def pull(cotangent: Cotangent) -> Cotangent:
        independent = apart(cotangent.seen, roots)
        return Cotangent(
            (lambda: cotangent.kernel * products_of()) if independent else None,
            lambda: cotangent.columns * slopes(),
            cotangent.back,
            cotangent.seen | roots,
        )

    return pull


def _whole_pull(roots: Roots, back: Callable[[Tensor], Tensor]) -> Pull:
    """How a gradient goes back, given the function that takes columns back."""

    def pull(cotangent: Cotangent) -> Cotangent:
        return Cotangent(
            None, lambda: back(cotangent.columns), cotangent.back, cotangent.seen | roots
        )

    return pull


def _by_row(constant: Tensor, place: Aligned) -> Tensor:
    """A constant at every row, and every unit where these differ: (rows, 1, 1 or units)."""
    if constant.numel() == 1:
        return constant.reshape(1, 1, 1)
    values = constant.expand(place.rows.shape)
    size = place.count, int(place.units.max()) + 1
    found = values.new_zeros(size)
    found[place.rows, place.units] = values
    if not torch.equal(found[place.rows, place.units], values):
        raise Unpredicted("a constant differs between entries of the same row")
    return found[:, None]


class _Evaluated:
    """A function of several values on columns, with its slopes."""

    def __init__(
        self, function: Function, parts: list[Table], place: Aligned, constants: list[Tensor]
    ) -> None:
        self.function, self.parts, self.place, self.constants = function, parts, place, constants

    @cached_property
    def _shaped(self) -> list[Tensor]:
        pairs = zip(self.parts, self.place.indices, strict=True)
        return [x.columns[index].view(len(index), -1, x.units) for x, index in pairs]

    @cached_property
    def value(self) -> Tensor:
        """(rows, columns)"""
        y = self.function(*(x.clone() for x in self._shaped), *self.constants)
        widest = max(self._shaped, key=Tensor.numel)
        return y.expand(widest.shape).to(widest.dtype).flatten(1)

    @cached_property
    def slopes(self) -> list[Tensor]:
        """By each value, (rows, columns)."""
        with torch.enable_grad():
            at = [x.detach().requires_grad_() for x in self._shaped]
            y = self.function(*(x.clone() for x in at), *self.constants)
            if not y.requires_grad:
                return [torch.zeros_like(x).flatten(1) for x in at]
            found = torch.autograd.grad(y.sum(), at, allow_unused=True)
        pairs = zip(found, at, strict=True)
        return [(torch.zeros_like(x) if s is None else s).flatten(1) for s, x in pairs]

    def back(self, number: int, gradient: Tensor) -> Tensor:
        """The gradient with respect to a value, from that of the result, both as columns."""
        with torch.enable_grad():
            at = [x.detach().requires_grad_() for x in self._shaped]
            y = self.function(*(x.clone() for x in at), *self.constants)
            if not y.requires_grad:
                return torch.zeros_like(at[number]).flatten(1)
            return torch.autograd.grad(y, at[number], gradient.view(y.shape))[0].flatten(1)


def _of_columns(
    function: Function, parts: list[Table], place: Aligned, constants: list[Tensor]
) -> Table:
    evaluated = _Evaluated(function, parts, place, constants)
    roots = NONE.union(*(x.roots for x in parts))
    table = Table(
        place.count,
        max(x.units for x in parts),
        None,
        lambda: evaluated.value,
        roots=roots,
        function=function if len(parts) == 1 and not constants else None,
    )
    table.statistic = table.units == 1 and any(x.statistic for x in parts)
    for number, (x, index) in enumerate(zip(parts, place.indices, strict=True)):

        def slope(number: int = number) -> Tensor:
            return evaluated.slopes[number]

        def squares(number: int = number) -> Tensor:
            return products(evaluated.slopes[number])

        through = _slope_pull(roots, squares, slope)
        if x.units < table.units:  # all units send gradients to the same number
            through = _whole_pull(roots, partial(evaluated.back, number))
        table.parents.append((x, then_spread(through, index, x)))
    return table


def then_spread(pull: Pull, index: Tensor, x: Table) -> Pull:
    """A pull, and then from the rows of a result to those of one value."""
    if len(index) == x.rows and torch.equal(index, torch.arange(x.rows)):
        return pull

    def both(cotangent: Cotangent) -> Cotangent:
        inner = pull(cotangent)

        def columns() -> Tensor:
            wide = inner.columns
            return wide.new_zeros(x.rows, wide.shape[1]).index_add_(0, index, wide)

        return Cotangent(
            None if inner.kernel_of is None else lambda: spread(inner.kernel, index, x.rows),
            columns,
            inner.back,
            inner.seen,
            inner.claim,
        )

    return both
