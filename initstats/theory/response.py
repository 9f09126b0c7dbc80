"""What an activation makes of pre-activations h: the moments of phi(h) as functions of q = E h^2.

A wide layer's h is N(0, q) over the draw of the weights (Poole et al. 2016, arXiv:1606.05340).
Where biases are uniform, as torch's are, h is the sum of a Gaussian and a uniform variable; its
density p is known, too. Derivatives by q are those by the variance w of the Gaussian part; the heat
equation, dp/dw = (d^2 p / dx^2) / 2, gives them without a derivative of phi.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import erf

from initstats.activations import Activation
from initstats.gaussian import one_thread
from initstats.theory.integrals import Integrand, moments
from initstats.theory.panels import Panels

Array = NDArray[np.float64]

_NODES = 22  # nodes of a panel of w: errors of 1e-11 for smooth and kinked phi
_STILL = 1e-100  # a variance below what float32 holds, of which the inverse square is finite
_TINY = 1e-300  # stands for w = 0, where derivatives are limits
_ROUGH = 1e-6  # w over phi(0)^2 below which rounding would swamp the derivatives
_PLAIN = 7  # moments before the derivatives by q


class Response(NamedTuple):
    """Moments of phi(h), arrays of the shape of q. What does not exist is inf.

    Attributes:
        mean: m = E phi(h).
        square: G = E phi(h)^2, the second moment of the activation.
        fourth: E phi(h)^4.
        slope_square: E phi'(h)^2, over the slope that exists almost everywhere.
        absolute: E |phi(h)|.
        negative: P(phi(h) < 0).
        zero: P(phi(h) = 0).
        mean_1: dm/dq.
        mean_2: d^2 m / dq^2.
        absolute_1, absolute_2: the first two derivatives of E |phi(h)| by q.
        square_1: G' = dG/dq.
        square_2: G''.
    """

    mean: Array
    square: Array
    fourth: Array
    slope_square: Array
    absolute: Array
    negative: Array
    zero: Array
    mean_1: Array
    mean_2: Array
    absolute_1: Array
    absolute_2: Array
    square_1: Array
    square_2: Array

    @property
    def noise(self) -> Array:
        """Var phi(h)^2 over units: what makes the next layer's second moment fluctuate."""
        return self.fourth - self.square**2


@one_thread()
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
    flat = w.ravel()
    values = np.full((len(Response._fields), w.size), np.nan)
    finite = np.isfinite(flat)
    values[:, finite] = _at(activation, uniform_bias, np.maximum(flat[finite], _TINY))
    if uniform_bias == 0:  # h may be 0; the slope's moment stays a limit
        y = _at_zero(activation)
        still = np.ix_(np.array([0, 1, 2, 4, 5, 6]), flat <= _TINY)
        values[still] = np.array([[y], [y**2], [y**4], [abs(y)], [y < 0], [y == 0]])
    return Response(*values.reshape(len(values), *w.shape))


def absolute_moments(q: Array, uniform_bias: float = 0.0) -> tuple[Array, Array, Array]:
    """E |h| and its first two derivatives by q, for h of second moment q.

    It is sqrt(2 q / pi) for a Gaussian h. By the heat equation the derivatives are p(0) and
    p''(0) / 2, p being the density of h.

    Args:
        uniform_bias: as for `response`.
    """
    w = np.maximum(q - uniform_bias, _STILL)
    if uniform_bias == 0:
        absolute = np.sqrt(2 * w / np.pi)
        return absolute, absolute / (2 * w), -absolute / (4 * w**2)
    b = np.sqrt(3 * uniform_bias)
    at_bound, inside = np.exp(-(b**2) / (2 * w)) / np.sqrt(2 * np.pi * w), erf(b / np.sqrt(2 * w))
    return (b**2 + w) / (2 * b) * inside + w * at_bound, inside / (2 * b), -at_bound / (2 * w)


def _at(activation: Activation, uniform_bias: float, w: Array) -> Array:
    """The moments (moments, entries) at any w (entries,) > 0: a few exactly, many interpolated."""
    if w.size == 0:
        return np.empty((len(Response._fields), 0))
    if w.size > _NODES:
        return np.ascontiguousarray(_panels(activation, uniform_bias).at(w).T)
    distinct, where = np.unique(w, return_inverse=True)
    return _few(activation, uniform_bias, tuple(distinct.tolist()))[:, where]


@lru_cache(maxsize=1024)
def _few(activation: Activation, uniform_bias: float, w: tuple[float, ...]) -> Array:
    return _moments(activation, uniform_bias, np.array(w))


@lru_cache(maxsize=64)
def _panels(activation: Activation, uniform_bias: float) -> Panels:
    return Panels(lambda w: _moments(activation, uniform_bias, w).T, _NODES)


def _moments(activation: Activation, uniform_bias: float, w: Array) -> Array:
    """The moments (moments, values) as in `Response` at some w (values,) > 0."""
    at_zero = _at_zero(activation)
    higher = np.maximum(w, 0.0 if uniform_bias else _ROUGH * at_zero**2)

    def part(w: Array, which: slice) -> Array:
        variance = torch.from_numpy(w)[:, None]
        return moments(Integrand(activation, variance, uniform_bias, at_zero, which))

    if (higher == w).all():
        return part(w, slice(None))
    return np.vstack([part(w, slice(0, _PLAIN)), part(higher, slice(_PLAIN, None))])


def _at_zero(activation: Activation) -> float:
    return float(activation(torch.zeros(1, dtype=torch.float64)))
