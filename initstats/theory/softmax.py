"""Softmax over Gaussian logits: how attention spreads, and what queries and keys see of it.

Logits of T exchangeable tokens are Gaussian, those of two rows (queries) correlated. Every moment
of a softmax A = e^a / Z is an integral over the Laplace transforms of Z, as
1 / Z^k = int u^(k-1) e^(-u Z) du / (k-1)!: one integral where one row is concerned, two for two
rows. With u = e^x all that is integrated is smooth on the scale of 1 or more, and the trapezoidal
rule converges exponentially. Derived here; approximations for small logits are in Kedia et al. 2024
(arXiv:2403.09635) and Cowsik et al. 2024 (arXiv:2403.02579).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.polynomial import chebyshev
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray

from initstats.theory.panels import one_blas_thread

Array = NDArray[np.float64]

_FINE, _COARSE = 0.35, 0.6  # steps of the trapezoidal rule: errors of 1e-11, and 1e-7
_REACH = 6.8  # standard deviations beyond which the normal density is below 1e-10
_NEGLIGIBLE = 1e-8  # share of its largest value at which an integrand over two rows is cut off
_BETAS, _LAST = (
    14,
    9,
)  # nodes of a panel of log(1 + beta^2) for one row, and the last panel's number
_PAIR_BETAS, _PAIR_LAST = 7, 6  # the same for two rows
_SHARES, _SHARE_WEIGHTS = (
    (side + shift) / 2 for side, shift in zip(leggauss(16), (1, 0), strict=True)
)


class SoftmaxMoments(NamedTuple):
    """Expectations over the logits of two rows A and B of attention, sums being over T tokens.

    Attributes:
        concentration: S = E sum A^2: 1 / T if every token counts alike, 1 if only one counts.
        overlap: S' = E sum A B; S - S' is half the mean squared distance of both rows.
        slope: F = E |dA/da|^2 = E [sum A^2 - 2 sum A^3 + (sum A^2)^2], squares of a softmax's
            derivatives: 0 if only one token counts.
        slope_overlap: F' = E [sum AB - sum A^2 B - sum A B^2 + (sum AB)^2], the product of the
            derivatives of both rows.
        entropy: E [-sum A log A], in nats: from log T, uniform, to 0.
        distance: S - S', with all its digits where both rows nearly agree.
    """

    concentration: float
    overlap: float
    slope: float
    slope_overlap: float
    entropy: float
    distance: float


@lru_cache(maxsize=2**14)
def softmax_moments(s2: float, c: float, tokens: int) -> SoftmaxMoments:
    """Moments of the softmax over logits a_st of covariance s2 C_ss' C_tt', C = c + (1 - c) I.

    A part of variance s2 c that all tokens share cancels, so that beta^2 = s2 (1 - c) acts. Two
    rows have logits that are correlated by c. All is interpolated: S, F and the entropy to 1e-6 up
    to beta^2 = 8100, S', F' and S - S' to 5e-4 of their values up to beta^2 = 20, to 5e-3 up to
    400. Beyond, one token takes all of a row, with corrections by 1 / beta, and S' and F' are good
    to 3%.

    Args:
        s2: variance of a logit; 0 is uniform attention, as logits over d_head have at large width.
        c: correlation of two tokens, from -1 / (T - 1) to 1; equal tokens count alike.
        tokens: T.

    >>> round(softmax_moments(1.0, 0.3, 16).concentration, 6)
    0.11012

    Raises:
        ValueError: s2 is no variance; c or T is out of range.
    """
    if not s2 >= 0:
        raise ValueError(f"s2 is the variance of a logit, at least 0: got {s2}")
    if tokens != int(tokens) or tokens < 1:
        raise ValueError(f"tokens is a whole number of at least 1: got {tokens}")
    lowest = -1 / max(tokens - 1, 1)
    if not lowest - 1e-9 <= c <= 1 + 1e-9:
        raise ValueError(f"c, of {tokens} tokens, is between {lowest:.4g} and 1: got {c}")
    c = min(max(c, lowest), 1.0)
    beta2 = s2 * (1 - c) if c < 1 else 0.0
    if tokens == 1:
        return SoftmaxMoments(1.0, 1.0, 0.0, 0.0, 0.0, 0.0)
    if beta2 == 0:
        share = 1 / tokens
        slope = share - share**2
        return SoftmaxMoments(share, share, slope, slope, math.log(tokens), 0.0)
    row, pair = _one_row(beta2, tokens), _two_rows(beta2, c, tokens)
    return SoftmaxMoments(
        row.concentration, pair.overlap, row.slope, pair.slope_overlap, row.entropy, pair.distance
    )


class OneRow(NamedTuple):
    """What a single row of attention gives, see `SoftmaxMoments`."""

    concentration: float
    slope: float
    entropy: float


class TwoRows(NamedTuple):
    """What the rows of two queries give, see `SoftmaxMoments`."""

    overlap: float
    distance: float
    slope_overlap: float


def one_row(beta2: float, tokens: int) -> OneRow:
    """S, F and the entropy by one integral, to 1e-9, for T >= 2 tokens.

    With L(x) = E exp(-e^(x+a)) and M_k = E e^(k(x+a)) exp(-e^(x+a)): S = T int M_2 L^(T-1) dx, and
    likewise sums of third and fourth powers. T M_1 L^(T-1) is a density; its mean is -E log Z
    less Euler's constant, and E sum A a = beta^2 (1 - S) by integration by parts.
    """
    beta = math.sqrt(beta2)
    step = _width(beta, tokens, _FINE)
    x = _points(*_bounds(beta, tokens), step)
    spread, m1, m2, m3, m4 = _transforms(x, beta, range(5), _FINE)
    rest = step * tokens * spread ** (tokens - 1)
    squares, cubes, fourths = (m2 * rest).sum(), (m3 * rest).sum() / 2, (m4 * rest).sum() / 6
    crossed = (m2**2 * spread ** (tokens - 2)).sum() * step * tokens * (tokens - 1) / 6
    log_sum = -np.euler_gamma - (x * m1 * rest).sum()
    return OneRow(
        float(squares),
        float(squares - 2 * cubes + fourths + crossed),
        float(log_sum - beta2 * (1 - squares)),
    )


def two_rows(beta2: float, c: float, tokens: int, step: float = _FINE) -> tuple[float, float]:
    """S' and F' by an integral over both rows' x, for T >= 2 tokens whose rows correlate by c.

    Given the part of both logits that is shared, with a standard deviation of beta sqrt |c|, their
    transforms are products of those of one row.
    """
    shared, own = math.sqrt(beta2 * abs(c)), math.sqrt(beta2 * (1 - abs(c)))
    width = _width(own, tokens, step)
    x = _points(*_seen(math.sqrt(beta2), tokens), width)
    if width <= _COARSE * shared:  # nodes of the shared part on the grid of x
        reach = math.ceil(_REACH * shared / width)
        nodes = width / shared * np.arange(-reach, reach + 1)
        beyond = width * np.arange(1, reach + 1)
        wide = np.concatenate([x[0] - beyond[::-1], x, x[-1] + beyond])
        parts = _transforms(wide, own, range(3), step)
        m0, m1, m2 = (sliding_window_view(part, 2 * reach + 1) for part in parts)
    else:
        nodes = _nodes(width / shared if shared else math.inf)
        m0, m1, m2 = _transforms(x[:, None] + shared * nodes, own, range(3), step)
    density = np.exp(-(nodes**2) / 2)
    density /= density.sum()
    side = slice(None, None, 1 if c >= 0 else -1)  # rows that move against each other
    m00, m11, m21, m22 = (
        (a * density) @ b[:, side].T for a, b in ((m0, m0), (m1, m1), (m2, m1), (m2, m2))
    )
    last = width**2 * tokens * m00 ** (tokens - 2)
    slopes = (m11 - 2 * m21 + m22) * m00 + (tokens - 1) * m11**2
    return float((m11 * m00 * last).sum()), float((slopes * last).sum())


def _bounds(beta: float, tokens: int) -> tuple[float, float]:
    """The x beyond which -log Z never lies."""
    log = math.log(tokens)
    return -(log + beta * (math.sqrt(2 * log) + 8) + 32), 8 * beta + 5


@lru_cache(maxsize=64)
def _seen(beta: float, tokens: int) -> tuple[float, float]:
    """The x beyond which the density of -log Z is negligible."""
    x = _points(*_bounds(beta, tokens), _width(beta, tokens, _COARSE))
    spread, m1 = _transforms(x, beta, range(2), _COARSE)
    density = m1 * spread ** (tokens - 1)
    inside = x[density > _NEGLIGIBLE * density.max()]
    return float(inside[0]), float(inside[-1])


def _width(s: float, tokens: int, step: float) -> float:
    """A step that resolves means over N(0, s^2) to the power of T."""
    return step * math.sqrt(1 + s**2 / (2 + 2 * math.log(tokens)))


def _points(first: float, last: float, width: float) -> Array:
    numbers = np.arange(math.floor(first / width), math.ceil(last / width) + 1)
    return np.asarray(width * numbers, dtype=np.float64)


def _nodes(step: float) -> Array:
    """Nodes of the trapezoidal rule over the normal density."""
    step = min(step, _COARSE)
    number = math.ceil(_REACH / step)
    return np.asarray(step * np.arange(-number, number + 1), dtype=np.float64)


def _transforms(x: Array, s: float, powers: Sequence[int], step: float) -> list[Array]:
    """E e^(k y) exp(-e^y) for y = x + s g and every power k, each of the shape of x."""
    nodes = _nodes(step / s if s else math.inf) if s else np.zeros(1)
    density = np.exp(-(nodes**2) / 2)
    y = np.exp(np.minimum(x[..., None] + s * nodes, 7.0))  # exp(-e^7) is 0
    value = np.exp(-y) * (density / density.sum())
    found = []
    for k in range(max(powers) + 1):
        if k:
            value *= y
        if k in powers:
            found.append(value.sum(-1))
    return found


def _one_row(beta2: float, tokens: int) -> OneRow:
    """`one_row`, interpolated; beyond the last panel all but one token count like 1 / beta."""
    place = math.log1p(beta2)
    if place >= _LAST:
        edge = _row_panel(tokens, _LAST - 1).at(_LAST)
        falls = math.sqrt(math.expm1(_LAST) / beta2) if beta2 < math.inf else 0.0
        return OneRow(
            1 - (1 - edge.concentration) * falls, edge.slope * falls, edge.entropy * falls
        )
    return _row_panel(tokens, int(place)).at(place)


def _two_rows(beta2: float, c: float, tokens: int) -> TwoRows:
    """`TwoRows`, interpolated; beyond the last panel S' stays, and F' is ~ 1 / beta^2."""
    place = math.log1p(beta2)
    if place < _PAIR_LAST:
        return _pair_panel(tokens, int(place)).at(place, c)
    edge = _pair_panel(tokens, _PAIR_LAST - 1).at(_PAIR_LAST, c)
    distance = _one_row(beta2, tokens).concentration - edge.overlap
    falls = math.expm1(_PAIR_LAST) / beta2 if beta2 < math.inf else 0.0
    return TwoRows(edge.overlap, distance, edge.slope_overlap * falls)


@dataclass(frozen=True)
class _RowPanel:
    """`one_row` over a panel of log(1 + beta^2) of width 1."""

    tokens: int
    number: int

    @cached_property
    def coefficients(self) -> Array:
        """Of log S, log F and the entropy over log T, (nodes, 3)."""
        nodes = chebyshev.chebpts1(_BETAS)
        rows = [one_row(math.expm1(self.number + (x + 1) / 2), self.tokens) for x in nodes]
        values = np.array([[math.log(r.concentration), math.log(r.slope), r.entropy] for r in rows])
        return _fit(values)

    def at(self, place: float) -> OneRow:
        x = 2 * (place - self.number) - 1
        s, f, entropy = np.asarray(chebyshev.chebval(x, self.coefficients)).tolist()
        return OneRow(math.exp(s), math.exp(f), entropy)


@dataclass(frozen=True)
class _PairPanel:
    """`TwoRows` over a panel of log(1 + beta^2) of width 1, and all c.

    By integration by parts dS'/dc = beta^2 F' at fixed beta. Integrals of F' up to c, and from c
    on, keep the digits of S' where it is small and of S - S' where it is.
    """

    tokens: int
    number: int

    @property
    def lowest(self) -> float:
        """The least c of T tokens."""
        return -1 / (self.tokens - 1)

    @cached_property
    def coefficients(self) -> tuple[Array, Array, Array]:
        """Of the logs of F' and of its means from 0 to c and from c to 1, (in beta, in c) each."""
        width = math.exp((self.number + 1) / 2)  # F' is as narrow as 1 / beta in the angle of c
        nodes = chebyshev.chebpts1(12 + math.ceil(1.7 * width))
        c = 1 - (1 - self.lowest) * (1 - nodes) / 2
        betas = [math.expm1(self.number + (x + 1) / 2) for x in chebyshev.chebpts1(_PAIR_BETAS)]
        with one_blas_thread():
            slopes = [[two_rows(b, each, self.tokens, _COARSE)[1] for each in c] for b in betas]
        fitted = _fit(np.log(slopes).T)
        middle = (1 + self.lowest) / (self.lowest - 1)  # the place of c = 0

        def mean(ends: Array | float) -> Array:
            """Means of F' between the nodes and their ends, (betas, nodes)."""
            between = nodes[:, None] + (ends - nodes)[:, None] * _SHARES
            means: Array = np.exp(chebyshev.chebval(between, fitted)) @ _SHARE_WEIGHTS
            return means

        below, above = mean(middle), mean(1.0)
        rises = [(one_row(b, self.tokens).concentration - 1 / self.tokens) / b for b in betas]
        exact = np.array(rises)[:, None] / (c * below + (1 - c) * above)
        logs = fitted.T, *(_fit(np.log(exact * part).T).T for part in (below, above))
        f, below, above = (_fit(log) for log in logs)
        return f, below, above

    def at(self, place: float, c: float) -> TwoRows:
        x = 2 * (place - self.number) - 1
        y = 1 - 2 * (1 - c) / (1 - self.lowest)
        f, below, above = (math.exp(chebyshev.chebval2d(x, y, log)) for log in self.coefficients)
        beta2 = math.expm1(place)
        return TwoRows(1 / self.tokens + beta2 * c * below, beta2 * (1 - c) * above, f)


def _fit(values: Array) -> Array:
    """Chebyshev coefficients (nodes, columns) of columns of values at the nodes."""
    nodes = len(values)
    basis = chebyshev.chebvander(chebyshev.chebpts1(nodes), nodes - 1)
    return np.asarray(np.linalg.solve(basis, values), dtype=np.float64)


@lru_cache(maxsize=256)
def _row_panel(tokens: int, number: int) -> _RowPanel:
    return _RowPanel(tokens, number)


@lru_cache(maxsize=256)
def _pair_panel(tokens: int, number: int) -> _PairPanel:
    return _PairPanel(tokens, number)
