"""The tensors of a model as theory sees them: which row and which unit of a table an entry is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from initstats.prediction.model.tables import Table, Unpredicted


@dataclass(frozen=True, eq=False)
class Given:
    """A tensor that no weights reach: data, or a constant."""

    values: Tensor


@dataclass(frozen=True, eq=False)
class Weight:
    """The entries of a parameter, perhaps rearranged, or some of them.

    Attributes:
        values: as they are in the model.
        name, shape: the parameter's.
    """

    values: Tensor
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Unknown:
    """A tensor of which nothing can be predicted, and why."""

    reason: str


@dataclass(frozen=True, eq=False)
class Signal:
    """A tensor of random numbers: each entry is a unit of a row of a table.

    Attributes:
        rows, units: for each entry, of the tensor's shape.
    """

    table: Table
    rows: Tensor
    units: Tensor

    def moved(self, change: Callable[[Tensor], Tensor]) -> Signal:
        """The signal with its entries rearranged."""
        return Signal(self.table, change(self.rows), change(self.units))

    @property
    def cut(self) -> Signal:
        """The signal without a way back."""
        x = self.table
        table = Table(
            x.rows,
            x.units,
            None if x.kernel_of is None else lambda: x.kernel,
            lambda: x.columns,
            lambda: x.mean,
            x.gaussian,
            x.roots,
            x.claim,
            function=x.function,
            scatter_of=lambda: x.scatter,
        )
        return Signal(table, self.rows, self.units)


State = Given | Weight | Unknown | Signal


def distinct(index: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct entries, ascending, and for each entry which of them it is."""
    values, which = torch.unique(index, return_inverse=True)
    return values, which


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape of tensors that meet entry by entry."""
    return tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]


def varies(index: Tensor) -> list[bool]:
    """Whether an index changes along each dimension."""
    return [
        bool((index != index.narrow(dim, 0, 1)).any()) if size > 1 else False
        for dim, size in enumerate(index.shape)
    ]


def unit_dims(signal: Signal) -> list[int]:
    """The dimensions along which the units are, where no rows are.

    Raises:
        Unpredicted: rows and units share a dimension.
    """
    units, rows = varies(signal.units), varies(signal.rows)
    if any(u and r for u, r in zip(units, rows, strict=True)):
        raise Unpredicted("positions and units share a dimension")
    return [dim for dim, varied in enumerate(units) if varied]


def laid_out(table: Table, shape: Sequence[int], dims: Sequence[int]) -> Signal:
    """A tensor with the units of a table along some dimensions, and its rows along the others."""
    rows, units = layout(shape, dims)
    return Signal(table, rows, units)


def layout(shape: Sequence[int], dims: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Rows and units of the entries of a tensor, counted in the order of its dimensions."""
    own = [dim for dim in range(len(shape)) if dim not in dims]
    return _counted(shape, own), _counted(shape, dims)


def _counted(shape: Sequence[int], dims: Sequence[int]) -> Tensor:
    sizes = [shape[dim] if dim in dims else 1 for dim in range(len(shape))]
    return torch.arange(math.prod(sizes)).view(sizes).expand(*shape)


def replicas(signal: Signal) -> Tensor:
    """The columns as copies of the tensor, (copies, *shape)."""
    table = signal.table
    columns = table.columns.view(table.rows, -1, table.units)
    return columns[signal.rows, :, signal.units].movedim(-1, 0)


def columns_of(copies: Tensor, dims: Sequence[int]) -> Tensor:
    """Copies of a tensor, (copies, *shape), as columns, its units being along some dimensions."""
    shape = copies.shape[1:]
    own = [dim for dim in range(len(shape)) if dim not in dims]
    rows = math.prod(shape[dim] for dim in own)
    order = [*(dim + 1 for dim in own), 0, *(dim + 1 for dim in dims)]
    return copies.permute(order).reshape(rows, -1)
