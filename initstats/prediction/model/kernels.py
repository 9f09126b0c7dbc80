"""What a function makes of the kernel of Gaussian rows, and of gradients on the way back.

E f(u) f(v) = sum_k a_k(q_u) a_k(q_v) c^k for Gaussian u, v of correlation c, with the normalized
Hermite coefficients a_k of f (Poole et al. 2016, arXiv:1606.05340); of functions with one slope on
each side of 0 it is known in closed form (Cho & Saul 2009).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
from numpy.polynomial import hermite_e
from torch import Tensor

from initstats.prediction.model.signals import distinct

Function = Callable[[Tensor], Tensor]

_DEGREE = 32  # what the series leaves out counts as the next degree
_STEEP = 100  # the degree of what a series of slopes leaves out
_REACH, _POINTS = 12.0, 2400
_Z = (torch.arange(_POINTS, dtype=torch.float64) + 0.5) * (2 * _REACH / _POINTS) - _REACH
_DENSITY = torch.exp(-_Z.square() / 2) * (2 * _REACH / _POINTS) / math.sqrt(2 * math.pi)
_NORMS = torch.tensor([math.sqrt(math.factorial(k)) for k in range(_DEGREE + 1)]).double()
_HERMITE = torch.from_numpy(hermite_e.hermevander(_Z.numpy(), _DEGREE)) / _NORMS


class Response:
    """What a function makes of rows that are Gaussian vectors of mean 0.

    Args:
        function: elementwise.
        kernel: mean products of the rows, (rows, rows).
    """

    def __init__(self, function: Function, kernel: Tensor) -> None:
        self._function, self._kernel = function, kernel

    @cached_property
    def kernel(self) -> Tensor:
        """Mean products of f of the rows."""
        if (slopes := self._slopes) is not None:
            half, bend = slopes
            c, q = self._correlation, self._size
            angle = (1 - c.square()).clamp(min=0).sqrt() + c * c.asin()
            return half**2 * self._kernel + bend**2 * 2 / math.pi * q[:, None] * q * angle
        values, _ = self._values
        return self._series(values, _DEGREE + 1)

    @cached_property
    def mean(self) -> Tensor:
        """Means of f of the rows, (rows,)."""
        if (slopes := self._slopes) is not None:
            return slopes[1] * math.sqrt(2 / math.pi) * self._size
        values, _ = self._values
        return (values * _DENSITY).sum(1)[self._which]

    @cached_property
    def slopes(self) -> Tensor:
        """Mean products of f' of the rows."""
        if (slopes := self._slopes) is not None:
            half, bend = slopes
            return half**2 + bend**2 * 2 / math.pi * self._correlation.asin()
        _, slope = self._values
        return self._series(slope, _STEEP)

    @cached_property
    def _size(self) -> Tensor:
        return self._kernel.diagonal().clamp(min=0).sqrt()

    @cached_property
    def _correlation(self) -> Tensor:
        size = self._size.clamp(min=1e-150)
        c = (self._kernel / size[:, None] / size).clamp(-1, 1)
        return c.fill_diagonal_(1.0) + 0 * size  # what is not finite stays unknown

    @cached_property
    def _slopes(self) -> tuple[float, float] | None:
        """Half the sum and half the difference of both slopes, where that is all of f."""
        return two_slopes(self._function)

    @cached_property
    def _lengths(self) -> tuple[Tensor, Tensor]:
        """The distinct sizes of the rows, to nine digits, and which of them each row has."""
        size = self._size
        rounded = (size.clamp(min=1e-150).log() * 1e9).round()
        distinct_sizes, which = distinct(rounded)
        return torch.zeros(len(distinct_sizes)).double().index_copy(0, which, size), which

    @property
    def _which(self) -> Tensor:
        return self._lengths[1]

    @cached_property
    def _values(self) -> tuple[Tensor, Tensor]:
        """f and f' at the points of the integrals, (sizes, points)."""
        x = self._lengths[0][:, None] * _Z
        return value_and_slope(self._function, x)

    def _series(self, values: Tensor, last: int) -> Tensor:
        """Mean products of a function of both rows, given its values (sizes, points)."""
        weighted = values * _DENSITY
        known = weighted @ _HERMITE
        square = (weighted * values).sum(1)
        rest = (square - known.square().sum(1)).clamp(min=0).sqrt()
        a, c, r = known[self._which], self._correlation, rest[self._which]
        total = torch.zeros_like(c)
        for k in range(_DEGREE, -1, -1):
            total = total * c + a[:, k, None] * a[:, k]
        total += r[:, None] * r * c.abs().pow(last) * (c.sign() if last % 2 else 1.0)
        total.diagonal().copy_(square[self._which])
        return total


def two_slopes(function: Function) -> tuple[float, float] | None:
    """Half the sum and half the difference of the slopes of a function that has two; else None."""
    x = torch.tensor([1.0, -1.0, 2.0, -2.0, 0.37, -0.37, 1e3, -1e3, 1e-4, -1e-4, 0.0]).double()
    y = function(x.clone()).double()
    high, low = float(y[0]), -float(y[1])
    half, bend = (high + low) / 2, (high - low) / 2
    same = torch.allclose(y, half * x + bend * x.abs(), rtol=1e-9, atol=1e-15)
    return (half, bend) if same else None


def value_and_slope(function: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    """f and its slope, 0 where it has none, at some points."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = function(x.clone())
        if not y.requires_grad:
            return y.detach(), torch.zeros_like(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), slope
