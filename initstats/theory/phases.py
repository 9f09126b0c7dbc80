"""Where a signal ends in great depth: fixed points, the edge of chaos, depth scales.

Schoenholz et al. 2017 (arXiv:1611.01232); for rectifiers Hayou et al. 2019 (arXiv:1902.06853).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from scipy.optimize import brentq

from initstats import activations
from initstats.activations import Activation
from initstats.gaussian import one_thread
from initstats.theory.maps import (
    Phi,
    check_variance,
    correlation_map,
    length_map,
    positive,
    product_moment,
)
from initstats.theory.response import response

_LEAST, _MOST = 1e-30, 1e30  # q beyond these counts as on its way to 0, or to infinity
_EQUAL = 1e-11  # relative change of q by a layer, or distance of chi from 1, that counts as none
_PRECISION = {"xtol": 1e-14, "rtol": 1e-14}  # of log q, where a root is looked for


@dataclass(frozen=True)
class FixedPoint:
    """Where the second moment of pre-activations runs to.

    Attributes:
        q_star: the second moment that reproduces itself; 0 where the signal dies out, inf where
            it diverges. All other attributes are then those at q = 1e-30, or 1e30.
        chi_1: slope of the correlation map at c = 1, and the factor of a gradient's squared norm:
            below 1 ordered (gradients vanish), above 1 chaotic (they explode), 1 the edge.
        chi_q: factor of an error in q; above 1, the slightest error leads away from q_star.
        xi_q: layers in which an error in q changes by a factor e; inf where chi_q is 1.
        xi_c: layers in which the correlation comes a factor e closer to c_star, or inf.
        c_star: the correlation that samples run to: 1 in order, below 1 in chaos; NaN where every
            correlation stays as it is.
    """

    q_star: float
    chi_1: float
    chi_q: float
    xi_q: float
    xi_c: float
    c_star: float


@dataclass(frozen=True)
class Edge:
    """A point on the edge of chaos.

    Attributes:
        sigma_w2: fan_in times the variance of a weight, at which chi_1 is 1.
        q_star: the second moment that reproduces itself there; NaN where every one does.
        chi_q: factor of an error in q there; above 1, signals leave q_star for order or for chaos.
    """

    sigma_w2: float
    q_star: float
    chi_q: float


@one_thread()
def fixed_point(fn: Phi, sigma_w2: float, sigma_b2: float = 0.0, q0: float = 1.0) -> FixedPoint:
    """The fixed point of the length map that pre-activations of second moment q0 run into.

    It is q0 where q0 reproduces itself, stable or not.

    >>> round(fixed_point("shifted_relu", sigma_w2=2.0).q_star, 12) == round(math.pi / 8, 12)
    True

    Raises:
        ValueError: an argument is out of range; E phi(h)^2 does not exist; q runs into a cycle.
    """
    entry = activations.get(fn)
    check_variance("sigma_w2", sigma_w2)
    check_variance("sigma_b2", sigma_b2)
    start = float(positive("q0", q0))
    length_map(entry, start, sigma_w2, sigma_b2)  # it must exist at q0, if not further on

    def length(q: float) -> float:
        try:
            return float(length_map(entry, q, sigma_w2, sigma_b2))
        except ValueError:
            return math.inf

    q_star = _run(length, start)
    at = min(max(q_star, _LEAST), _MOST)
    if math.isinf(length(at)):  # exploding beyond any number
        return FixedPoint(math.inf, math.inf, math.inf, 0.0, math.nan, math.nan)
    r = response(entry, at)
    chi_1 = sigma_w2 * (math.inf if entry.jumps else float(r.slope_square))
    chi_q = sigma_w2 * float(r.square_1)
    if chi_q < -1 and q_star != start:
        raise ValueError(f"q runs into no fixed point, but into a cycle around {q_star:g}")
    c_star, chi_c = _correlation(entry, at, sigma_w2, sigma_b2, chi_1)
    return FixedPoint(q_star, chi_1, chi_q, depth_scale(chi_q), depth_scale(chi_c), c_star)


@one_thread()
def edge_of_chaos(fn: Phi, sigma_b2: float = 0.0) -> Edge:
    """The sigma_w2 at which chi_1 = 1 where q reproduces itself: gradients keep their size.

    If there are several, it is the one of least q_star.

    >>> edge_of_chaos("tanh")
    Edge(sigma_w2=1.0, q_star=0.0, chi_q=1.0)

    Raises:
        ValueError: sigma_b2 is negative; there is no such sigma_w2, and why.
    """
    entry = activations.get(fn)
    check_variance("sigma_b2", sigma_b2)
    if entry.jumps:
        raise ValueError(f"{entry.name} has no edge of chaos: it jumps, so that chi_1 is infinite")

    def excess(log_q: float) -> float:
        """(sigma_b^2 + G / E phi'^2 - q) / q, which is 0 on the edge."""
        q = math.exp(log_q)
        r = response(entry, q)
        if r.slope_square == 0:
            raise ValueError(f"{entry.name} has no edge of chaos: its slope is 0, and so is chi_1")
        gap = float(r.square / r.slope_square) / q - 1
        return (0.0 if abs(gap) < _EQUAL else gap) + sigma_b2 / q

    scan = [step / 2 for step in range(round(2 * math.log(_LEAST)), round(2 * math.log(_MOST)))]
    last = excess(scan[0])
    if last == 0:  # with sigma_b2 = 0 and phi(0) = 0
        everywhere = all(excess(log_q) == 0 for log_q in (-9.0, 0.0, 9.0))
        return _edge(entry, math.nan if everywhere else 0.0)
    for low, high in pairwise(scan):
        this = excess(high)
        if last * this < 0:
            return _edge(entry, math.exp(brentq(excess, low, high, **_PRECISION)))
        last = this or last
    raise ValueError(
        f"{entry.name} has no edge of chaos at sigma_b2 = {sigma_b2:g}: where chi_1 is 1, a layer "
        f"makes every second moment {'larger' if last > 0 else 'smaller'}"
    )


def depth_scale(chi: float) -> float:
    """Layers in which a factor chi per layer amounts to e or 1 / e: 1 / |log |chi||, inf at 1.

    >>> round(depth_scale(math.exp(-0.25)), 12)
    4.0
    """
    if math.isnan(chi):
        return math.nan
    if math.isclose(abs(chi), 1, rel_tol=_EQUAL):
        return math.inf
    return 1 / abs(math.log(abs(chi))) if 0 < abs(chi) < math.inf else 0.0


def _edge(entry: Activation, q_star: float) -> Edge:
    r = response(entry, 1.0 if math.isnan(q_star) else max(q_star, _LEAST))
    return Edge(float(1 / r.slope_square), q_star, float(r.square_1 / r.slope_square))


def _run(length: Callable[[float], float], start: float) -> float:
    """Where q runs to from `start`: 0, inf, or the first root of `pull` on its way."""

    def pull(log_q: float) -> float:
        return length(math.exp(log_q)) / math.exp(log_q) - 1

    q, stretch, direction = start, 1.1, pull(math.log(start))
    if abs(direction) <= _EQUAL:
        return start
    while _LEAST < q < _MOST:
        # A step goes as far as the map does, or further where the map hardly moves. An increasing
        # map passes no root; a decreasing one leaps over the root, and the sign of `pull` tells.
        beyond = max(length(q), q * stretch) if direction > 0 else min(length(q), q / stretch)
        if not _LEAST < beyond < _MOST:
            break
        there = pull(math.log(beyond))
        if abs(there) > _EQUAL and there * direction < 0:
            return math.exp(brentq(pull, math.log(q), math.log(beyond), **_PRECISION))
        q, stretch = beyond, min(stretch**2, 4.0)
    return math.inf if direction > 0 else 0.0


def _correlation(
    entry: Activation, q: float, sigma_w2: float, sigma_b2: float, chi_1: float
) -> tuple[float, float]:
    """c_star, and the slope of the correlation map there."""
    following = float(length_map(entry, q, sigma_w2, sigma_b2))
    if following == 0:
        return math.nan, math.nan

    def gap(c: float) -> float:
        return float(correlation_map(entry, c, sigma_w2, sigma_b2, q)) - c

    slope = chi_1 * q / following
    if slope <= 1 + _EQUAL:
        stays = abs(gap(0.5)) <= _EQUAL
        return (math.nan, 1.0) if stays else (1.0, slope)
    if gap(0.0) <= _EQUAL:
        c_star = 0.0
    else:
        high = next(1 - 10.0**-k for k in range(1, 16) if gap(1 - 10.0**-k) < 0)
        c_star = brentq(gap, 0.0, high, xtol=1e-13)
    slopes = product_moment(entry.derivative, q, c_star * q, kinks=entry.kinks)
    return c_star, sigma_w2 * slopes * q / following
