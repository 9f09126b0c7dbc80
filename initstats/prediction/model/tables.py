"""What theory knows of a value: second moments and products of its rows, over draws of the weights.

The entries of a value are rows (samples, positions) of units. In wide layers the units are
independent copies of one random vector over the rows (Yang 2019, arXiv:1902.04760): a product with
new weights makes it a Gaussian vector, of which the kernel of the rows says everything. What is not
Gaussian is followed by columns: that vector drawn for as many units as the layer has, many times
over, always with the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

Claim = Literal["exact", "infinite width"]
Part = tuple[int, int]
Root = tuple[int, tuple[Part, ...]]
"""A draw of weights that a value is made of, and which of its units, as a path of choices."""
Roots = frozenset[Root]

NONE: Roots = frozenset()
MOST_ROWS = 2048
"""Rows of which products of all pairs are followed."""
_ENTRIES = 2**21  # most entries of the columns of the largest value
_LEAST, _MOST = 16, 512  # copies of a layer
_CROWD = 2**26  # most entries of columns at all
_JITTER = 1e-10  # what is added to a kernel's diagonal, relative to it, before its root is taken


class Unpredicted(Exception):
    """Says why a value cannot be predicted."""


class Draws:
    """Makes columns of Gaussian values."""

    def __init__(self) -> None:
        self._largest = 1
        self._count = 0

    def expect(self, *tables: Table) -> None:
        """Hear of tables of which columns are drawn: the largest says how many copies there are."""
        largest = max(table.rows * table.units for table in tables)
        if largest * _LEAST > _CROWD:
            raise Unpredicted(f"{largest} numbers are too many to draw {_LEAST} times at once")
        self._largest = max(self._largest, largest)

    def key(self) -> int:
        """A number for another draw of weights."""
        self._count += 1
        return self._count

    @cached_property
    def copies(self) -> int:
        """How many copies of each unit are drawn; half of them are the others with a minus."""
        return int(min(max(_ENTRIES // self._largest, _LEAST), _MOST)) // 2 * 2

    def normal(self, kernel: Tensor, units: int, key: int) -> Tensor:
        """Columns (rows, copies * units) with mean 0 whose products are those of a kernel."""
        root = _root(kernel)
        half = self.copies // 2
        generator = torch.Generator().manual_seed(7919 * key + 1)
        z = torch.randn(len(kernel), half * units, generator=generator)
        if z.shape[1] >= 2 * len(kernel):  # the sample's own products are made those of theory
            own = (z @ z.T).double() / z.shape[1]
            z = torch.linalg.solve_triangular(_root(own).float(), z, upper=False)
        x = (root.float() @ z).view(len(kernel), half, units)
        return torch.cat([x, -x], dim=1).flatten(1)


@dataclass(eq=False)
class Cotangent:
    """The gradient with respect to a value.

    Attributes:
        kernel_of: computes the mean products over units of the gradients of all pairs of rows,
            (rows, rows); None: they are those of the columns.
        columns_of: computes columns of gradients beside those of the value.
        back: the draws of weights, on the way back, that it is made of.
        seen: the draws of weights of the values that it went through.
        claim: in which sense it holds.
    """

    kernel_of: Callable[[], Tensor] | None
    columns_of: Callable[[], Tensor]
    back: Roots
    seen: Roots = NONE
    claim: Claim = "infinite width"

    @cached_property
    def kernel(self) -> Tensor:
        """Mean products over units, (rows, rows)."""
        return products(self.columns) if self.kernel_of is None else self.kernel_of()

    @cached_property
    def square(self) -> Tensor:
        """Mean squares over units, (rows,)."""
        if self.kernel_of is None:
            return self.columns.double().square().mean(1)
        return self.kernel.diagonal()

    @cached_property
    def columns(self) -> Tensor:
        """(rows, copies * units)."""
        return self.columns_of()

    def scaled(self, factor: float) -> Cotangent:
        """The gradient times a number."""
        if factor == 1:
            return self
        kernel, columns = (lambda: factor**2 * self.kernel), (lambda: factor * self.columns)
        return Cotangent(kernel, columns, self.back, self.seen, self.claim)


Pull = Callable[[Cotangent], Cotangent]


@dataclass(eq=False)
class Table:
    """The rows of a value, for units that are copies of each other.

    Attributes:
        rows, units: how many there are.
        kernel_of: computes the mean products over units, (rows, rows); None: those of the columns.
        columns_of: computes the columns, (rows, copies * units).
        mean_of: computes the means over units, (rows,); None: those of the columns.
        gaussian: whether units are Gaussian vectors of mean 0.
        roots: the draws of weights that it is made of.
        claim: in which sense the second moments hold.
        parents: the tables that it is made of, and how gradients go back to them.
        function: the elementwise function of one other value that made it.
        scatter_of: computes the variance of a row's own mean square over n units, relative to its
            square and times n, (rows,); None: 2, that of Gaussian rows.
        statistic: whether it is a number for each row that was made of all its units.
    """

    rows: int
    units: int
    kernel_of: Callable[[], Tensor] | None
    columns_of: Callable[[], Tensor]
    mean_of: Callable[[], Tensor] | None = None
    gaussian: bool = False
    roots: Roots = NONE
    claim: Claim = "infinite width"
    parents: list[tuple[Table, Pull]] = field(default_factory=list)
    function: Callable[[Tensor], Tensor] | None = None
    scatter_of: Callable[[], Tensor] | None = None
    statistic: bool = False

    def __post_init__(self) -> None:
        if self.rows > MOST_ROWS:
            self.kernel_of = None

    @cached_property
    def kernel(self) -> Tensor:
        """Mean products over units, (rows, rows)."""
        checked(self.rows)
        return products(self.columns) if self.kernel_of is None else self.kernel_of()

    @cached_property
    def square(self) -> Tensor:
        """Second moments, (rows,)."""
        if self.kernel_of is None:
            return self.columns.double().square().mean(1)
        return self.kernel.diagonal()

    @cached_property
    def mean(self) -> Tensor:
        """Means over units, (rows,)."""
        if self.gaussian:
            return torch.zeros(self.rows, dtype=torch.float64)
        return self.columns.double().mean(1) if self.mean_of is None else self.mean_of()

    @cached_property
    def scatter(self) -> Tensor:
        """Relative variance of a row's own mean square, times the units, (rows,)."""
        if self.scatter_of is None:
            return torch.full((self.rows,), 2.0, dtype=torch.float64)
        return self.scatter_of()

    @cached_property
    def columns(self) -> Tensor:
        """(rows, copies * units)."""
        return self.columns_of()


def checked(rows: int) -> None:
    """Raise Unpredicted where a kernel would be too large."""
    if rows > MOST_ROWS:
        raise Unpredicted(
            f"its samples and positions are {rows} rows, and products of all pairs of more than "
            f"{MOST_ROWS} are not followed: give fewer samples"
        )


def products(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Mean products of the rows of columns."""
    return (x @ (x if y is None else y).T).double() / x.shape[1]


def apart(a: Roots, b: Roots) -> bool:
    """Whether values made of these draws of weights are independent, unit by unit."""
    return not any(_meet(one, other) for one in a for other in b)


def chosen(roots: Roots, first: int, last: int) -> Roots:
    """The draws of some of the units alone, from the first to the last."""
    return frozenset((key, (*path, (first, last))) for key, path in roots)


def summed(cotangents: Iterable[Cotangent]) -> Cotangent:
    """The sum of the gradients that come back from all uses of a value."""
    parts = list(cotangents)
    if len(parts) == 1:
        return parts[0]
    pairs = [(a, b) for n, a in enumerate(parts) for b in parts[:n]]
    independent = all(apart(a.back, b.back) for a, b in pairs)
    exact = independent and all(part.claim == "exact" for part in parts)
    return Cotangent(
        (lambda: _sum([part.kernel for part in parts])) if independent else None,
        lambda: _sum([part.columns for part in parts]),
        NONE.union(*(part.back for part in parts)),
        NONE.union(*(part.seen for part in parts)),
        "exact" if exact else "infinite width",
    )


def _sum(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).sum(0)


def _meet(a: Root, b: Root) -> bool:
    if a[0] != b[0]:
        return False
    for (low, high), (start, end) in zip(a[1], b[1], strict=False):
        if high < start or end < low:
            return False
        if (low, high) != (start, end):
            return True
    return True


def _root(kernel: Tensor) -> Tensor:
    """The Cholesky root of a kernel, which may have no full rank."""
    size = float(kernel.diagonal().mean())
    if not size > 0:
        return torch.zeros_like(kernel)
    jitter = _JITTER
    while True:
        shifted = kernel + jitter * size * torch.eye(len(kernel), dtype=kernel.dtype)
        root: Tensor
        root, failed = torch.linalg.cholesky_ex(shifted)
        if not int(failed) or jitter > 1:
            return root
        jitter *= 10
