"""What an activation makes of pre-activations h: the moments of phi(h) as functions of q = E h^2.

A wide layer's h is N(0, q) over the draw of the weights (Poole et al. 2016, arXiv:1606.05340).
Where biases are uniform, as torch's are, it is not: h is the sum of a Gaussian and a uniform
variable, of known density. Derivatives with respect to q turn the Gaussian part's variance w; the
heat equation, d density / dw = (d^2 density / dx^2) / 2, gives them without a derivative of phi.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from initstats.activations import Activation
from initstats.gaussian import one_thread
from initstats.theory.integrals import Integrand, moments
from initstats.theory.panels import Panels

Array = NDArray[np.float64]

_NODES = 22  # of a panel of w: errors of 1e-11 for smooth and kinked phi
_TINY = 1e-300  # stands for w = 0, where derivatives are limits
_ROUGH = 1e-6  # w over phi(0)^2 below which rounding would swamp the derivatives
_PLAIN = 6  # moments that are no derivatives by q


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
    values = np.full((len(NAMES), w.size), np.nan)
    finite = np.isfinite(flat)
    values[:, finite] = _at(activation, uniform_bias, np.maximum(flat[finite], _TINY))
    if uniform_bias == 0:
        values[:_PLAIN, flat <= _TINY] = _still(activation, values[:_PLAIN, flat <= _TINY])
    return Response(*values.reshape(len(NAMES), *w.shape))


def _at(activation: Activation, uniform_bias: float, w: Array) -> Array:
    """The moments (moments, entries) at any w (entries,) > 0: a few exactly, many interpolated."""
    if w.size == 0:
        return np.empty((len(NAMES), 0))
    if w.size > _NODES:
        return np.ascontiguousarray(_panels(activation, uniform_bias).at(w).T)
    distinct, where = np.unique(w, return_inverse=True)
    return _moments(activation, uniform_bias, distinct)[:, where]


@lru_cache(maxsize=64)
def _panels(activation: Activation, uniform_bias: float) -> Panels:
    return Panels(lambda w: _moments(activation, uniform_bias, w).T, _NODES)


def _moments(activation: Activation, uniform_bias: float, w: Array) -> Array:
    """The moments (moments, values) in the order of `NAMES` at some w (values,) > 0."""
    at_zero = float(activation(torch.zeros(1, dtype=torch.float64)))
    higher = np.maximum(w, 0.0 if uniform_bias else _ROUGH * at_zero**2)

    def part(w: Array, which: slice) -> Array:
        variance = torch.from_numpy(w)[:, None]
        return moments(Integrand(activation, variance, uniform_bias, at_zero, which))

    if (higher == w).all():
        return part(w, slice(None))
    return np.vstack([part(w, slice(0, _PLAIN)), part(higher, slice(_PLAIN, None))])


def _still(activation: Activation, values: Array) -> Array:
    """The plain moments at q = 0, but for that of the slope, which stays a limit."""
    y = float(activation(torch.zeros(1, dtype=torch.float64)))
    known = np.array([y, y**2, y**4, np.nan, y < 0, y == 0])[:, None]
    return np.where(np.isnan(known), values, known)
