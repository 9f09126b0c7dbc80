"""Coordinates of a point on a sphere: what normalized pre-activations are at finite width.

LayerNorm and GroupNorm leave a point of the sphere that has n / groups - 1 dimensions to move in,
RMSNorm one of n: its entries are not Gaussian. sqrt(d) times a coordinate of a uniform point on the
unit sphere of R^d has the density ~ (1 - z^2 / d)^((d - 3) / 2), and becomes N(0, 1) as d grows.
Derived here.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray

from initstats import gaussian
from initstats.activations import Activation
from initstats.gaussian import one_thread
from initstats.theory.response import response

Array = NDArray[np.float64]

REACH = 12.0
"""|z| beyond which there is nothing, whatever the dimension."""
_WIDTH = 0.5  # of a panel in z
_NODES, _WEIGHTS = leggauss(15)


class SphereMoments(NamedTuple):
    """Moments of phi(z) for a coordinate z of a point on a sphere, E z^2 being q.

    Attributes:
        mean: E phi(z).
        square: E phi(z)^2.
        slope_square: E phi'(z)^2, over the slope that exists almost everywhere.
    """

    mean: float
    square: float
    slope_square: float


@one_thread()
@lru_cache(maxsize=1024)
def sphere_moments(activation: Activation, d: float, q: float = 1.0) -> SphereMoments:
    """What an activation makes of normalized pre-activations, exactly at finite width.

    Args:
        activation: phi.
        d: dimension: n / groups - 1 behind LayerNorm (one group) and GroupNorm, n behind RMSNorm,
            `math.inf` for the limit, N(0, q).
        q: mean square of the norm's output, the square of its scale: 1 at initialization.

    Raises:
        ValueError: no such dimension or q; phi is NaN somewhere on the sphere.
    """
    if not 0 <= q < math.inf:
        raise ValueError(f"q is a second moment, finite and at least 0: got {q}")
    if d == math.inf:
        r = response(activation, q)
        return SphereMoments(float(r.mean), float(r.square), float(r.slope_square))
    check_dimension(d)
    scale = math.sqrt(q)
    z, weights = coordinate(d, bends(activation, q))
    y, slope = values(activation, scale * z)
    moments = SphereMoments(*(float(weights @ row) for row in (y, y**2, slope**2)))
    if any(map(math.isnan, moments)):
        raise ValueError(f"{activation.name} is NaN somewhere on the sphere of {d} dimensions")
    return moments


def coordinate(d: float, bends: Array) -> tuple[Array, Array]:
    """Nodes z, and weights of sum 1, of sqrt(d) times a coordinate of a uniform point on a sphere.

    The rule is exact to 1e-12 for what is smooth between the `bends`.
    """
    if d == 1:
        return np.array([-1.0, 1.0]), np.array([0.5, 0.5])
    edges = np.concatenate([np.arange(-REACH, REACH + _WIDTH, _WIDTH), bends])
    angles, weights = mesh(np.arcsin((edges / math.sqrt(d)).clip(-1, 1)), d)
    return math.sqrt(d) * np.sin(angles), weights


def mesh(edges: Array, d: float) -> tuple[Array, Array]:
    """Angles (..., nodes) of a coordinate sin t on the sphere of R^d, d > 1, and their weights.

    The density of t is ~ cos^(d-2) t, smooth up to its ends; weights have a sum of 1.

    Args:
        edges: ends of panels, (..., edges), which are cut off where nothing is beyond.
        d: dimension.
    """
    most = math.asin(min(1.0, REACH / math.sqrt(d)))
    ends = np.broadcast_to([-most, most], (*edges.shape[:-1], 2))
    edges = np.sort(np.concatenate([edges.clip(-most, most), ends], axis=-1), axis=-1)
    half = np.diff(edges)[..., None] / 2
    angles = edges[..., :-1, None] + half * (1 + _NODES)
    inside = np.minimum(np.sin(angles) ** 2, 1 - np.finfo(float).epsneg)
    log_density = (d - 2) / 2 * np.log1p(-inside)  # log cos would lose the digits of large d
    weights = half * _WEIGHTS * np.exp(log_density)
    flat = (*edges.shape[:-1], -1)
    angles, weights = angles.reshape(flat), weights.reshape(flat)
    return angles, weights / weights.sum(-1, keepdims=True)


def bends(activation: Activation, q: float = 1.0) -> Array:
    """The z at which phi(sqrt(q) z) may bend."""
    if q == 0:
        return np.zeros(1)
    found = gaussian.bends(activation.function, q, activation.kinks).numpy()
    return np.asarray(found / math.sqrt(q), dtype=np.float64)


def values(activation: Activation, x: Array) -> tuple[Array, Array]:
    """phi(x) and phi'(x)."""
    at = torch.from_numpy(x)
    y, slope = (f(at).double().numpy() for f in (activation, activation.derivative))
    return y, slope


def check_dimension(d: float) -> None:
    """Raise ValueError for what is no dimension of a sphere's space."""
    if not d >= 1:
        raise ValueError(f"a normalized row has at least 1 dimension to move in: got d = {d}")
