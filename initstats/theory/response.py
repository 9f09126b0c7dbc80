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
_SHARES = np.isin(NAMES, ("negative", "zero"))
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
        if w.size == 0:
            return np.empty((len(NAMES), 0))
        if w.size <= _NODES:
            distinct, where = np.unique(w, return_inverse=True)
            return _moments(self.activation, distinct, self.uniform_bias)[:, where]
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
            rows = _moments(self.activation, w, self.uniform_bias)
            basis = chebyshev.chebvander(nodes, _NODES - 1)
            self.panels[number] = np.asarray(np.linalg.solve(basis, rows.T), dtype=np.float64)
        return self.panels[number]


def _moments(activation: Activation, w: Array, uniform_bias: float) -> Array:
    """The moments in the order of `NAMES` at some w (values,) > 0, in one pass."""
    at_zero = float(activation(torch.zeros(1, dtype=torch.float64)))
    higher = np.maximum(w, 0.0 if uniform_bias else _ROUGH * at_zero**2)
    if (higher == w).all():
        return _integrated(activation, w, uniform_bias, at_zero, slice(None))
    plain = _integrated(activation, w, uniform_bias, at_zero, slice(0, _PLAIN))
    slopes = _integrated(activation, higher, uniform_bias, at_zero, slice(_PLAIN, None))
    return np.vstack([plain, slopes])


def _integrated(
    activation: Activation, w: Array, uniform_bias: float, at_zero: float, which: slice
) -> Array:
    variance = torch.from_numpy(w)[:, None]
    q = variance + uniform_bias
    widest = float(q.max())
    size = _size(activation, q)  # keeps fourth powers within float64

    def rows(x: Tensor) -> Tensor:
        x = (q / widest).sqrt() * x
        y, slope = activation(x).double() / size, activation.derivative(x).double()
        even, once, twice = density_ratios(x, variance, uniform_bias)
        square, change = y.square(), y - at_zero / size  # constants have no derivative: no rounding
        square_change = change * (y + at_zero / size)
        forward = [y * even, square * even, square.square() * even, slope.square() * even]
        shares = [(1 + (y < 0).double()) * even, (1 + (y == 0).double()) * even]  # of 1: no noise
        slopes = [change * once, change * twice, square_change * once, square_change * twice]
        return torch.stack((forward + shares + slopes)[which]).flatten(0, 1)

    try:
        found = list(gaussian.expect_rows(rows, widest))
    except ValueError:  # some do not exist
        if len(w) > 1:
            each = (
                _integrated(activation, one, uniform_bias, at_zero, which) for one in w[:, None]
            )
            return np.hstack(list(each))
        found = _existing(rows, widest)
    with np.errstate(over="ignore"):
        values: Array = np.reshape(found, (-1, len(w))) * size.numpy().T ** _POWERS[which, None]
        for order in (1, 2):
            values = np.where(_ORDERS[which, None] >= order, values / w, values)
    return np.where(_SHARES[which, None], np.maximum(values - 1, 0.0), values)


def _still(activation: Activation, values: Array) -> Array:
    """The plain moments at q = 0, but for that of the slope, which stays a limit."""
    y = float(activation(torch.zeros(1, dtype=torch.float64)))
    moments = np.array([y, y**2, y**4, np.nan, y < 0, y == 0])[:, None]
    return np.where(np.isnan(moments), values, moments)


def _existing(rows: Callable[[Tensor], Tensor], q: float) -> list[float]:
    """The expectations of rows, one by one; inf for each that does not exist but the first two."""
    found = list(gaussian.expect_rows(lambda x: rows(x)[:2], q))
    for number in range(2, len(rows(torch.zeros(1, dtype=torch.float64)))):
        try:
            found += gaussian.expect_rows(partial(_one, rows, number), q)
        except ValueError:
            found.append(math.inf)
    return found


def _one(rows: Callable[[Tensor], Tensor], number: int, x: Tensor) -> Tensor:
    return rows(x)[number : number + 1]


def density_ratios(
    x: Tensor, w: Tensor | float, uniform_bias: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The density of h over that of N(0, q), and w d/dw and w^2 d^2/dw^2 of it over the same."""
    if uniform_bias == 0:
        z2 = x * x / w
        return torch.ones_like(x), (z2 - 1) / 2, (z2 * z2 - 6 * z2 + 3) / 4
    w = torch.as_tensor(w, dtype=torch.float64)
    bound, scale, q = math.sqrt(3 * uniform_bias), w.sqrt(), w + uniform_bias
    log_normal = -x * x / (2 * q) - (2 * math.pi * q).log() / 2
    far, near = (x.abs() + bound) / scale, (x.abs() - bound) / scale
    upper, lower = torch.special.log_ndtr(-near), torch.special.log_ndtr(-far)
    even = -torch.expm1(lower - upper) * torch.exp(upper - log_normal)
    at_far, at_near = (
        torch.exp(-u * u / 2 - math.log(2 * math.pi) / 2 - log_normal) for u in (far, near)
    )
    once = (near * at_near - far * at_far) / 2
    twice = ((near**3 - 3 * near) * at_near - (far**3 - 3 * far) * at_far) / 4
    return even / (2 * bound), once / (2 * bound), twice / (2 * bound)


def _size(activation: Activation, q: Tensor) -> Tensor:
    """A bound that phi seldom exceeds at second moments q (values, 1); 1 where that is 0."""
    x = q.sqrt() * torch.linspace(-3, 3, 13, dtype=torch.float64)
    size = activation(x).double().abs().amax(1, keepdim=True)
    return torch.where((size > 0) & size.isfinite(), size, 1.0)
