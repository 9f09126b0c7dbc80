"""Gaussian moments of activations in closed form = quadrature = Monte Carlo, at any q."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from scipy.special import erfcx
from torch import Tensor

from initstats import activations
from initstats.activations.tailoring import tailored_slope
from initstats.gaussian import expect

OfQ = Callable[[float], float]
Polynomial = Sequence[float]  # ascending coefficients


class Moments(NamedTuple):
    """E phi(x), E phi(x)^2 and E phi'(x)^2 for x ~ N(0, q), as functions of q."""

    mean: OfQ
    square: OfQ
    slope_square: OfQ


def density(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def mass(low: float, high: float) -> float:
    """P(low < z < high), from the nearer tail."""
    if low > 0:
        low, high = -high, -low
    return (math.erfc(-high / math.sqrt(2)) - math.erfc(-low / math.sqrt(2))) / 2


def powers(low: float, high: float, count: int) -> list[float]:
    """E z^k 1(low < z < high) for k = 0 .. count - 1, by parts."""
    found = [mass(low, high), density(low) - density(high)]
    for k in range(2, count):
        ends = [z ** (k - 1) * density(z) if math.isfinite(z) else 0.0 for z in (low, high)]
        found.append((k - 1) * found[k - 2] + ends[0] - ends[1])
    return found[:count]


def polynomial(kinks: Sequence[float], pieces: Sequence[Polynomial]) -> OfQ:
    """E of a function that is a polynomial between its kinks."""
    edges = list(itertools.pairwise((-math.inf, *kinks, math.inf)))

    def of_q(q: float) -> float:
        root = math.sqrt(q)
        return math.fsum(
            coefficient * root**power * moment
            for (low, high), piece in zip(edges, pieces, strict=True)
            for power, (coefficient, moment) in enumerate(
                zip(piece, powers(low / root, high / root, len(piece)), strict=True)
            )
        )

    return of_q


def squared(p: Polynomial) -> Polynomial:
    square = [0.0] * (2 * len(p) - 1)
    for i, j in itertools.product(range(len(p)), repeat=2):
        square[i + j] += p[i] * p[j]
    return square


def pieces(kinks: Sequence[float], *parts: Polynomial) -> Moments:
    slopes = [[k * c for k, c in enumerate(part)][1:] or [0.0] for part in parts]
    return Moments(
        polynomial(kinks, parts),
        polynomial(kinks, [squared(part) for part in parts]),
        polynomial(kinks, [squared(slope) for slope in slopes]),
    )


def leaky(slope: float, size: float = 1.0) -> Moments:
    return pieces([0], [0, size * slope], [0, size])


def exponential(alpha: float, rate: float = 1.0, size: float = 1.0) -> Moments:
    """The moments of size * (x above zero, alpha (exp(rate x) - 1) below)."""

    def below(k: float, q: float) -> float:
        """E exp(k x) 1(x < 0)."""
        return float(erfcx(k * math.sqrt(q / 2))) / 2

    return Moments(
        lambda q: size * (math.sqrt(q) * density(0) + alpha * (below(rate, q) - 0.5)),
        lambda q: size**2 * (q / 2 + alpha**2 * (below(2 * rate, q) - 2 * below(rate, q) + 0.5)),
        lambda q: size**2 * (0.5 + (alpha * rate) ** 2 * below(2 * rate, q)),
    )


def _turns(q: float) -> float:
    return 0.25 + math.asin(q / (1 + q)) / (2 * math.pi)


GELU = Moments(
    lambda q: q / math.sqrt(2 * math.pi * (1 + q)),
    lambda q: q * _turns(q) + q * q / (math.pi * (1 + q) * math.sqrt(1 + 2 * q)),
    lambda q: (
        _turns(q)
        + (2 * q / ((1 + q) * math.sqrt(1 + 2 * q)) + q * (1 + 2 * q) ** -1.5) / (2 * math.pi)
    ),
)
ERF = Moments(
    lambda q: 0.0,
    lambda q: 2 / math.pi * math.asin(2 * q / (1 + 2 * q)),
    lambda q: 4 / (math.pi * math.sqrt(1 + 4 * q)),
)
SIN = Moments(
    lambda q: 0.0,
    lambda q: -math.expm1(-2 * q) / 2,
    lambda q: (1 + math.exp(-2 * q)) / 2,
)
SLOPE = tailored_slope(100)
CLOSED = {
    "identity": pieces([], [0, 1]),
    "relu": leaky(0),
    "shifted_relu(shift=-1.5)": pieces([0], [1.5], [1.5, 1]),
    "leaky_relu(negative_slope=0.3)": leaky(0.3),
    "general_relu": pieces([0, 6.4], [-0.4, 0.1], [-0.4, 1], [6]),
    "general_relu(leak=-0.5,maxv=2)": pieces([-4.8, 0, 2.4], [2], [-0.4, -0.5], [-0.4, 1], [2]),
    "general_relu(maxv=inf)": pieces([0], [-0.4, 0.1], [-0.4, 1]),
    "prelu(slope=-1)": leaky(-1),
    "rrelu(upper=1)": leaky(9 / 16),
    "tailored_relu(depth=100)": leaky(SLOPE, math.sqrt(2 / (1 + SLOPE**2))),
    "relu6": pieces([0, 6], [0], [0, 1], [6]),
    "elu(alpha=0.5)": exponential(0.5),
    "celu(alpha=2)": exponential(2, 0.5),
    "selu": exponential(1.6732632423543772848, 1, 1.0507009873554804934),
    "gelu": GELU,
    "hardswish": pieces([-3, 3], [0], [0, 1 / 2, 1 / 6], [0, 1]),
    "squared_relu": pieces([0], [0], [0, 0, 1]),
    "hardtanh(min_val=-0.5,max_val=3)": pieces([-0.5, 3], [-0.5], [0, 1], [3]),
    "erf": ERF,
    "sin": SIN,
}


def rows(name: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    entry = activations.get(name)
    return entry(x), entry(x).square(), entry.derivative(x).square()


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_equal_the_quadrature(name: str) -> None:
    for number, closed in enumerate(CLOSED[name]):
        for q in (1e-2, 0.3, 1.0, 7.0, 300.0):
            found = expect(lambda x, number=number: rows(name, x)[number], q)  # type: ignore[misc]
            assert found == pytest.approx(closed(q), rel=1e-10, abs=1e-13)


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_equal_monte_carlo(name: str) -> None:
    q, samples = 1.7, 100_000
    z = torch.randn(samples, dtype=torch.float64, generator=torch.Generator().manual_seed(11))
    for draws, closed in zip(rows(name, math.sqrt(q) * z), CLOSED[name], strict=True):
        error = float(draws.std()) / math.sqrt(samples)
        assert abs(float(draws.mean()) - closed(q)) <= 4.5 * error + 1e-12


def test_means_that_symmetry_gives() -> None:
    for name, mean in {"tanh": 0.0, "softsign": 0.0, "sigmoid": 0.5}.items():
        assert expect(activations.get(name), 7.0) == pytest.approx(mean, rel=1e-12, abs=1e-14)
