"""Correlations of many pairs of samples at once, each sample of its own length, to three digits.

For Gaussian u, v of correlation c, E f(u) f(v) = sum_k a_k(q_u) a_k(q_v) c^k with the normalized
Hermite coefficients a_k of f (Poole et al. 2016, arXiv:1606.05340).
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.polynomial import hermite_e
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.gaussian import one_thread
from initstats.theory.panels import Panels
from initstats.theory.response import Response

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_DEGREE = 32  # highest degree of a series; what it leaves out counts as the next degree
_SLOPE_DEGREE = 100  # of what a series of slopes leaves out, whose degrees fall slowly
_LENGTHS = 10  # second moments of a panel at which the coefficients are computed
_POINTS, _REACH = 2400, 12.0  # points of their integrals, and the largest |z|

_Z = (np.arange(_POINTS) + 0.5) * (2 * _REACH / _POINTS) - _REACH
_DENSITY = np.exp(-(_Z**2) / 2) * (2 * _REACH / _POINTS) / math.sqrt(2 * math.pi)
_NORMS = np.sqrt([float(math.factorial(k)) for k in range(_DEGREE + 1)])
_HERMITE = hermite_e.hermevander(_Z, _DEGREE) / _NORMS  # (points, degrees)


class Correlations(NamedTuple):
    """Correlations of the activations of two samples, (pairs,) each; 0 where one is constant.

    `value` is that of phi(u) and phi(v), `square` that of their squares, and `radial` the part of
    `square` that comes with the lengths of u and v over a layer's units.
    """

    value: Array
    square: Array
    radial: Array


@one_thread()
def correlations(activation: Activation, q: Array, pairs: Indices, c: Array) -> Correlations:
    """How the activations of pairs of samples are correlated over units.

    Args:
        activation: phi.
        q: second moments of the samples' pre-activations, (samples,), above 0.
        pairs: the samples of each pair, (2, pairs).
        c: correlations of their pre-activations, (pairs,).
    """
    series = _series(activation).at(q).reshape(len(q), 2, -1)  # of phi and of its square
    sizes = np.sqrt(np.einsum("sfk,sfk->sf", series, series))
    u, v = (series / np.where(sizes > 0, sizes, np.inf)[..., None])[pairs]
    powers = c[:, None] ** np.arange(1, _DEGREE + 2)
    value, square = (np.einsum("pk,pk,pk->p", u[:, f], v[:, f], powers) for f in (0, 1))
    return Correlations(value, square, u[:, 1, 1] * v[:, 1, 1] * c**2)


@one_thread()
def slope_products(
    activation: Activation, q: Array, pairs: Indices, c: Array, r: Response
) -> Array:
    """E phi'(u) phi'(v) for pairs of samples, (pairs,): the slope of E phi(u) phi(v) by E u v.

    With E phi(u) phi(v) as a series in c, its slope is one, too; what the degrees left out make of
    E phi'^2 is known, and falls with c as `_SLOPE_DEGREE` does.

    Args:
        activation, q, pairs, c: as of `correlations`.
        r: the moments of phi at q.
    """
    series = _series(activation).at(q).reshape(len(q), 2, -1)[:, 0]
    sizes = np.sqrt(np.einsum("sk,sk->s", series, series))
    spread = np.sqrt(np.maximum(r.square - r.mean**2, 0))
    scale = spread / np.where(sizes > 0, sizes, np.inf) / np.sqrt(q)
    known = series[:, :-1] * np.sqrt(np.arange(1, _DEGREE + 1)) * scale[:, None]
    rest = np.sqrt(np.maximum(r.slope_square - np.einsum("sk,sk->s", known, known), 0))
    powers = c[:, None] ** np.arange(_DEGREE)
    u, v = known[pairs]
    tail = np.abs(c) ** _SLOPE_DEGREE  # an even degree
    return np.asarray(np.einsum("pk,pk,pk->p", u, v, powers) + rest[pairs].prod(0) * tail)


@lru_cache(maxsize=64)
def _series(activation: Activation) -> Panels:
    """Coefficients of phi, and of its square, over q."""
    return Panels(partial(_of_lengths, activation), _LENGTHS)


def _of_lengths(activation: Activation, q: Array) -> Array:
    """The coefficients of a panel, (lengths, degrees of both)."""
    x = torch.from_numpy(np.sqrt(q)[:, None] * _Z)
    values: Array = activation(x).double().numpy()
    largest = np.abs(values[:, np.abs(_Z) < 4]).max()
    values = values / (largest if largest > 0 else 1.0)  # correlations do not depend on it
    return np.hstack([_coefficients(values), _coefficients(values**2)])


def _coefficients(values: Array) -> Array:
    """Coefficients of degree 1 and above, the last of what is left, (lengths, degrees)."""
    weighted = values * _DENSITY
    known = weighted @ _HERMITE
    rest = (weighted * values).sum(1) - (known**2).sum(1)
    return np.hstack([known[:, 1:], np.sqrt(np.maximum(rest, 0.0))[:, None]])
