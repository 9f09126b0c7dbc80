"""The slope of leaky relus that suits a depth (Zhang et al. 2022, arXiv:2203.08120)."""

from __future__ import annotations

import math

DEEPEST = 10_000
"""The most layers that a slope is tailored to."""


def leaky_correlation(c: float, slope: float) -> float:
    """Correlation of leaky_relu(u) and leaky_relu(v) for u, v of correlation c (Cho & Saul 2009).

    The correlation is E phi(u) phi(v) / E phi(u)^2, means included: the correlation map of a layer
    without biases, for any sigma_w2 and q.

    >>> leaky_correlation(0.0, 0.0) == 1 / math.pi
    True
    """
    arc = math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))
    return ((1 - slope) ** 2 * arc / math.pi + 2 * slope * c) / (1 + slope * slope)


def tailored_slope(depth: float, eta: float = 0.9) -> float:
    """The negative slope at which leaky relus take a correlation of 0 to eta in `depth` layers.

    A deep net of plain relus makes all inputs look alike; this slope delays it. It is 0.0 if relu
    itself stays below eta.

    >>> round(tailored_slope(50), 6)
    0.430523

    Raises:
        ValueError: depth is no number of layers, or eta not between 0 and 1.
    """
    if not (1 <= depth <= DEEPEST and float(depth).is_integer() and 0 < eta < 1):
        raise ValueError(
            f"a slope is tailored to a whole number of layers, 1 to {DEEPEST}, and an eta between "
            f"0 and 1: got depth {depth} and eta {eta}"
        )

    def excess(slope: float) -> float:
        c = 0.0
        for _ in range(int(depth)):
            c = min(leaky_correlation(c, slope), 1.0)
        return c - eta

    low, high = 0.0, 1.0  # excess falls with the slope
    if excess(low) <= 0:
        return 0.0
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high
