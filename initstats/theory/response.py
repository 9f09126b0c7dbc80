"""What an activation makes of pre-activations h: the moments of phi(h) as functions of q = E h^2.

A wide layer's h is N(0, q) over the draw of the weights (Poole et al. 2016, arXiv:1606.05340).
Where biases are uniform, as torch's are, it is not: h is the sum of a Gaussian and a uniform
variable, of known density. Derivatives with respect to q turn the Gaussian part's variance w; the
heat equation, d density / dw = (d^2 density / dx^2) / 2, gives them without a derivative of phi.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from initstats import gaussian
from initstats.activations import Activation

Array = NDArray[np.float64]

_NODES = 16  # a panel is a factor e of w wide: errors of 1e-11 for smooth and kinked phi
_CHUNK = 2**16  # entries interpolated at once
_TINY = 1e-300  # stands for w = 0, where derivatives are limits
_ROUGH = 1e-6  # w over phi(0)^2 below which rounding would swamp the derivatives


@dataclass(frozen=True)
class Response:
    """Moments of phi(h), arrays of the shape of q. What does not exist is inf.

    Attributes:
        mean: m = E phi(h).
        square: G = E phi(h)^2, the second moment of the activation.
        fourth: E phi(h)^4.
        slope_square: E phi'(h)^2, over the slope that exists almost everywhere.
        negative: P(phi(h) < 0).
        zero: P(phi(h) = 0).
        mean_1: dm/dq.
        mean_2: d^2 m / dq^2.
        square_1: G' = dG/dq.
        square_2: G''.
    """

    mean: Array
    square: Array
    fourth: Array
    slope_square: Array
    negative: Array
    zero: Array
    mean_1: Array
    mean_2: Array
    square_1: Array
    square_2: Array


NAMES = tuple(field.name for field in fields(Response))


def response(activation: Activation, q: ArrayLike, uniform_bias: float = 0.0) -> Response:
    """The moments of phi(h) for h with second moment q.

    Args:
        activation: phi.
        q: any shape; a few values are integrated one by one, many are interpolated in log q.
        uniform_bias: the share of q that is the variance of uniform biases; the rest is Gaussian.

    Raises:
        ValueError: E phi(h)^2 does not exist.
    """
    w = np.asarray(q, dtype=np.float64) - uniform_bias
    flat, table = w.ravel(), _table(activation, uniform_bias)
    values = np.full((len(NAMES), w.size), np.nan)
    finite = np.isfinite(flat)
    values[:, finite] = table.at(np.maximum(flat[finite], _TINY))
    if uniform_bias == 0:
        values[:_PLAIN, flat <= _TINY] = _still(activation, values[:_PLAIN, flat <= _TINY])
    return Response(*values.reshape(len(NAMES), *w.shape))


_POWERS = np.array([1, 2, 4, 0, 0, 0, 1, 1, 2, 2])  # of phi in each moment
_ORDERS = np.array([0, 0, 0, 0, 0, 0, 1, 2, 1, 2])  # of its derivative by q
_PLAIN = 6  # moments that are no derivatives


@lru_cache(maxsize=64)
def _table(activation: Activation, uniform_bias: float) -> _Table:
    return _Table(activation, uniform_bias)


class _Table:
    """The moments over w, by panels of log w that are filled when first asked for."""

    def __init__(self, activation: Activation, uniform_bias: float) -> None:
        self.activation, self.uniform_bias = activation, uniform_bias
        self.panels: dict[int, Array] = {}  # Chebyshev coefficients (_NODES, rows)

    def at(self, w: Array) -> Array:
        """Moments (rows, entries) at w (entries,) > 0."""
        if w.size <= _NODES:
            distinct, where = np.unique(w, return_inverse=True)
            exact = [_moments(self.activation, value, self.uniform_bias) for value in distinct]
            return np.array(exact).reshape(-1, len(NAMES))[where].T
        chunks = range(0, w.size, _CHUNK)
        return np.hstack([self._interpolated(np.log(w[i : i + _CHUNK])) for i in chunks])

    def _interpolated(self, log_w: Array) -> Array:
        numbers = np.floor(log_w).astype(int)
        values = np.empty((len(NAMES), log_w.size))
        for number in np.unique(numbers):
            inside = numbers == number
            basis = chebyshev.chebvander(2 * (log_w[inside] - number) - 1, _NODES - 1)
            values[:, inside] = (basis @ self._panel(int(number))).T
        return values

    def _panel(self, number: int) -> Array:
        if number not in self.panels:
            nodes = chebyshev.chebpts1(_NODES)
            w = np.exp(number + (nodes + 1) / 2)
            rows = np.array([_moments(self.activation, value, self.uniform_bias) for value in w])
            self.panels[number] = np.linalg.solve(chebyshev.chebvander(nodes, _NODES - 1), rows)
        return self.panels[number]


def _moments(activation: Activation, w: float, uniform_bias: float) -> list[float]:
    """The moments in the order of `NAMES` at one w > 0."""
    at_zero = float(activation(torch.zeros(1, dtype=torch.float64)))
    rough = _ROUGH * at_zero**2
    if uniform_bias == 0 and w < rough:  # slopes would be those of rounding
        values = _rows(activation, w, 0.0, at_zero, slice(0, _PLAIN))
        return values + _rows(activation, rough, 0.0, at_zero, slice(_PLAIN, None))
    return _rows(activation, w, uniform_bias, at_zero, slice(None))


def _rows(
    activation: Activation, w: float, uniform_bias: float, at_zero: float, which: slice
) -> list[float]:
    size = _size(activation, w + uniform_bias)  # keeps fourth powers within float64

    def rows(x: Tensor) -> Tensor:
        y, slope = activation(x).double() / size, activation.derivative(x).double()
        even, once, twice = density_ratios(x, w, uniform_bias)
        square, change = y.square(), y - at_zero / size  # constants have no derivative: no rounding
        square_change = change * (y + at_zero / size)
        forward = [y * even, square * even, square.square() * even, slope.square() * even]
        shares = [(y < 0).double() * even, (y == 0).double() * even]
        slopes = [change * once, change * twice, square_change * once, square_change * twice]
        return torch.stack((forward + shares + slopes)[which])

    with np.errstate(over="ignore"):
        values = np.array(_existing(rows, w + uniform_bias)) * size ** _POWERS[which]
        for order in (1, 2):
            values = np.where(_ORDERS[which] >= order, values / w, values)
    result: list[float] = values.tolist()
    return result


def _still(activation: Activation, values: Array) -> Array:
    """The plain moments at q = 0, but for that of the slope, which stays a limit."""
    y = float(activation(torch.zeros(1, dtype=torch.float64)))
    moments = np.array([y, y**2, y**4, np.nan, y < 0, y == 0])[:, None]
    return np.where(np.isnan(moments), values, moments)


def _existing(rows: Callable[[Tensor], Tensor], q: float) -> tuple[float, ...]:
    """The expectations of rows; inf for each that does not exist, beside the first two."""
    try:
        return gaussian.expect_rows(rows, q)
    except ValueError:
        first = gaussian.expect_rows(lambda x: rows(x)[:2], q)
    others: list[float] = []
    for number in range(2, len(rows(torch.zeros(1, dtype=torch.float64)))):
        try:
            others += gaussian.expect_rows(partial(_one, rows, number), q)
        except ValueError:
            others.append(math.inf)
    return (*first, *others)


def _one(rows: Callable[[Tensor], Tensor], number: int, x: Tensor) -> Tensor:
    return rows(x)[number : number + 1]


def density_ratios(x: Tensor, w: float, uniform_bias: float) -> tuple[Tensor, Tensor, Tensor]:
    """The density of h over that of N(0, q), and w d/dw and w^2 d^2/dw^2 of it over the same."""
    if uniform_bias == 0:
        z2 = x * x / w
        return torch.ones_like(x), (z2 - 1) / 2, (z2 * z2 - 6 * z2 + 3) / 4
    bound, scale, q = math.sqrt(3 * uniform_bias), math.sqrt(w), w + uniform_bias
    log_normal = -x * x / (2 * q) - math.log(2 * math.pi * q) / 2
    far, near = (x.abs() + bound) / scale, (x.abs() - bound) / scale
    upper, lower = torch.special.log_ndtr(-near), torch.special.log_ndtr(-far)
    even = -torch.expm1(lower - upper) * torch.exp(upper - log_normal)
    at_far, at_near = (
        torch.exp(-u * u / 2 - math.log(2 * math.pi) / 2 - log_normal) for u in (far, near)
    )
    once = (near * at_near - far * at_far) / 2
    twice = ((near**3 - 3 * near) * at_near - (far**3 - 3 * far) * at_far) / 4
    return even / (2 * bound), once / (2 * bound), twice / (2 * bound)


def _size(activation: Activation, q: float) -> float:
    """A bound that phi seldom exceeds at second moment q; 1 where that is 0."""
    x = math.sqrt(q) * torch.linspace(-3, 3, 13, dtype=torch.float64)
    size = float(activation(x).double().abs().amax())
    return size if 0 < size < math.inf else 1.0
