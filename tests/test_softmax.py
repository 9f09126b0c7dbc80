"""Moments of attention's softmax against closed forms, plain quadrature and simulations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import dblquad, quad

from initstats import theory
from initstats.theory.softmax import SoftmaxMoments, one_row, softmax_moments, two_rows

Array = NDArray[np.float64]


def softmax(logits: Array) -> Array:
    weights: Array = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def simulated(s2: float, c: float, tokens: int, rows: int) -> tuple[Array, Array]:
    """Means and standard errors of the five moments, from draws of two rows of logits."""
    normal = np.random.default_rng(0).normal
    scale = math.sqrt(s2 * (1 - c))
    one, other = scale * normal(size=(2, rows, tokens))
    a, b = softmax(one), softmax(c * one + math.sqrt(1 - c * c) * other)
    squares, products = (a * a).sum(1), (a * b).sum(1)
    values = np.array(
        [
            squares,
            products,
            squares - 2 * (a**3).sum(1) + squares**2,
            products - (a * b * (a + b)).sum(1) + products**2,
            -(a * np.log(np.maximum(a, 1e-300))).sum(1),
        ]
    )
    return values.mean(1), values.std(1) / math.sqrt(rows)


@pytest.mark.parametrize(
    ("s2", "c", "tokens"),
    [
        (0.25, 0.3, 16),
        (1.0, 0.0, 16),
        (4.0, 0.3, 16),
        (4.0, 0.8, 5),
        (60.0, 0.3, 16),
        (40.0, -0.05, 16),
        (5.0, -0.8, 2),
        (20.0, 0.95, 49),
        (16.0, 0.5, 256),
    ],
)
def test_simulation(s2: float, c: float, tokens: int) -> None:
    means, errors = simulated(s2, c, tokens, 2_000_000 // (tokens * 20))
    z = (np.array(softmax_moments(s2, c, tokens)[:5]) - means) / errors
    assert np.abs(z).max() < 4, z


def test_annealed_averages_are_told_from_the_truth() -> None:
    """Figures of 60,000 simulated rows; means of numerator and denominator by themselves err."""
    figures = ((0.25, 0.0733, 2.692), (1, 0.1101, 2.470), (4, 0.2537, 1.860))
    for s2, simulated_s, entropy in figures:
        moments = softmax_moments(s2, 0.3, 16)
        annealed = 1 / (1 + 15 * math.exp(-0.7 * s2))
        assert moments.concentration == pytest.approx(simulated_s, abs=4e-4)
        assert moments.entropy == pytest.approx(entropy, abs=2e-3)
        assert annealed / moments.concentration > 1.003
    assert annealed / moments.concentration == pytest.approx(2.06, abs=0.01)


def normal_mean(f: Callable[[float], float], s: float) -> float:
    def weighted(z: float) -> float:
        return f(s * z) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    return float(quad(weighted, -9, 9, epsabs=1e-13, limit=200, points=[0.0])[0])


@pytest.mark.parametrize("beta2", [1e-6, 0.1, 1.3, 25.0, 100.0])
def test_two_tokens_are_a_sigmoid(beta2: float) -> None:
    """One integral over the difference of both logits."""
    s, found = math.sqrt(2 * beta2), one_row(beta2, 2)

    def square(x: float) -> float:
        return sigmoid(x) ** 2 + sigmoid(-x) ** 2

    def slope(x: float) -> float:
        return 4 * (sigmoid(x) * sigmoid(-x)) ** 2

    def entropy(x: float) -> float:
        return 2 * sigmoid(x) * math.log1p(math.exp(-x))

    for value, f in zip(found, (square, slope, entropy), strict=True):
        assert value == pytest.approx(normal_mean(f, s), abs=1e-8)


def test_two_rows_of_two_tokens() -> None:
    """A plain integral over both differences, rows moving with and against each other."""
    s = math.sqrt(2 * 1.5)
    for c in (0.6, -0.6):

        def product(y: float, x: float, c: float = c) -> float:
            a, b = sigmoid(s * x), sigmoid(s * (c * x + math.sqrt(1 - c * c) * y))
            return (a * b + (1 - a) * (1 - b)) * math.exp(-(x * x + y * y) / 2) / (2 * math.pi)

        overlap = dblquad(product, -7, 7, -7, 7, epsabs=1e-8)[0]
        assert two_rows(1.5, c, 2)[0] == pytest.approx(overlap, abs=1e-7)


@pytest.mark.parametrize("tokens", [2, 16, 4096])
def test_rows_of_uncorrelated_and_equal_logits(tokens: int) -> None:
    """Independent rows overlap by 1 / T; equal rows are one row; dS'/dc = beta^2 F'."""
    for beta2 in (0.3, 5.0, 100.0):
        row = one_row(beta2, tokens)
        assert two_rows(beta2, 0.0, tokens)[0] == pytest.approx(1 / tokens, rel=1e-7)
        equal = two_rows(beta2, 1.0, tokens)
        assert equal == pytest.approx((row.concentration, row.slope), rel=2e-6)
        step = 1e-3
        below, above = (two_rows(beta2, 0.4 + d, tokens)[0] for d in (-step, step))
        slope = two_rows(beta2, 0.4, tokens)[1]
        assert (above - below) / (2 * step) == pytest.approx(beta2 * slope, rel=1e-3)


@pytest.mark.parametrize("tokens", [2, 49, 4096])
def test_interpolation_is_the_integral(tokens: int) -> None:
    rng = np.random.default_rng(1)
    for beta2 in (1e-4, 0.02, 0.9, 4.0, 18.0):
        c = float(rng.uniform(0, 1))
        found = softmax_moments(beta2 / (1 - c), c, tokens)
        row, (overlap, slope) = one_row(beta2, tokens), two_rows(beta2, c, tokens)
        assert found.concentration == pytest.approx(row.concentration, abs=1e-7)
        assert found.slope == pytest.approx(row.slope, rel=1e-6)
        assert found.entropy == pytest.approx(row.entropy, abs=1e-6)
        assert found.overlap == pytest.approx(overlap, rel=5e-4)
        assert found.slope_overlap == pytest.approx(slope, rel=5e-4)
        assert found.concentration - found.overlap == pytest.approx(
            found.distance, rel=1e-3, abs=1e-8
        )


@pytest.mark.parametrize("tokens", [1, 2, 16, 4096])
@pytest.mark.parametrize(("s2", "c"), [(0.0, 0.3), (7.0, 1.0), (0.0, 1.0), (math.inf, 1.0)])
def test_uniform_attention_is_exact(s2: float, c: float, tokens: int) -> None:
    share = 1 / tokens
    slope = share - share**2 if tokens > 1 else 0.0
    expected = SoftmaxMoments(share, share, slope, slope, math.log(tokens), 0.0)
    assert softmax_moments(s2, c, tokens) == expected


def test_small_logits_keep_their_digits() -> None:
    """Nearly uniform rows: S - 1/T = beta^2 (T-1) / T^2, and S - S' is (1 - c) of it."""
    for s2, c in ((1e-9, 0.3), (1.0, 1 - 1e-7), (4.0, 1 - 1e-12)):
        found = softmax_moments(s2, c, 16)
        beta2 = s2 * (1 - c)
        assert found.concentration - 1 / 16 == pytest.approx(beta2 * 15 / 256, abs=1e-10)
        assert found.distance == pytest.approx(beta2 * (1 - c) * 15 / 256, rel=1e-4)


def test_one_token_takes_all() -> None:
    """Huge logits: a row is one token, and rows agree as often as their largest logits do."""
    found = softmax_moments(1e9, 0.5, 256)
    assert found.concentration == pytest.approx(1, abs=1e-3)
    assert found.slope == pytest.approx(0, abs=1e-4)
    assert found.entropy == pytest.approx(0, abs=1e-3)
    one, other = np.random.default_rng(0).normal(size=(2, 10_000, 256))
    agree = np.mean(one.argmax(1) == (0.5 * one + math.sqrt(0.75) * other).argmax(1))
    error = math.sqrt(agree * (1 - agree) / 10_000)
    assert found.overlap == pytest.approx(agree, rel=0.03, abs=4 * error)
    assert softmax_moments(math.inf, 0.5, 256)[:1] == (1.0,)
    inner, outer = (softmax_moments(beta2 / 0.5, 0.5, 256) for beta2 in (400, 410))
    assert inner == pytest.approx(outer, rel=0.03)  # both sides of the last panel


def test_public_name() -> None:
    assert theory.softmax_moments is softmax_moments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0, 0.3, 16), "s2 is the variance of a logit"),
        ((math.nan, 0.3, 16), "s2 is the variance of a logit"),
        ((1.0, 1.1, 16), "between -0.06667 and 1: got 1.1"),
        ((1.0, -0.5, 16), "between -0.06667 and 1"),
        ((1.0, math.nan, 16), "between"),
        ((1.0, 0.3, 0), "whole number of at least 1"),
        ((1.0, 0.3, 2.5), "whole number"),
    ],
)
def test_what_is_out_of_range(arguments: tuple[float, float, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        softmax_moments(*arguments)
