"""The integrals behind the moments of phi(h), for many second moments of h in one pass.

A rule lays out its panels beforehand, as it is known where phi and the density bend. Its error is
measured, and where it is too large, the quadrature of `initstats.gaussian` finds panels by itself,
at some ten times the cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initstats import gaussian
from initstats.activations import Activation

Array = NDArray[np.float64]

# for each field of `Response`: the power of phi, the order of the derivative by q, whether a share
_POWERS = np.array([1, 2, 4, 0, 1, 0, 0, 1, 1, 1, 1, 2, 2])
_ORDERS = np.array([0, 0, 0, 0, 0, 0, 0, 1, 2, 1, 2, 1, 2])
_SHARES = np.array([0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0], dtype=bool)

_REACH, _TAIL = 14.0, 12.0  # |z| where the rule ends, and beyond which nothing should be left
_DENSE = 5  # octaves of |h| beyond which phi bends so slowly that a panel may cover two
_RESOLVED = 1e-12  # share of a moment by which finer panels may change it
_NOTHING = 1e-14  # share of a moment that may lie in the tail
_EVERY, _CLOSE = 5, 8.0  # one of 5 values is measured, if all are within a factor of 8
_BITS = 60  # bits to which places are found where phi changes its sign
_ZERO = 1e-15  # |x| of a place that counts as 0
_MANY = 32  # places at which phi counts as oscillating


@dataclass(frozen=True)
class Integrand:
    """Moments before they are integrated, in units that keep fourth powers within float64."""

    activation: Activation  # phi
    w: Tensor  # variances of the Gaussian part of h, (values, 1), ascending, above 0
    uniform_bias: float  # variance of the uniform part of h
    at_zero: float  # phi(0)
    which: slice  # the fields of `Response` that are integrated

    @property
    def q(self) -> Tensor:
        """(values, 1)."""
        return self.w + self.uniform_bias

    @cached_property
    def size(self) -> Tensor:
        """A bound that |phi| seldom exceeds, (values, 1); 1 where that is 0 or infinite."""
        x = self.q.sqrt() * torch.linspace(-3, 3, 13, dtype=torch.float64)
        size = self.activation(x).double().abs().amax(1, keepdim=True)
        return torch.where((size > 0) & size.isfinite(), size, 1.0)

    def __getitem__(self, some: slice) -> Integrand:
        return replace(self, w=self.w[some])

    def __call__(self, z: Tensor) -> Tensor:
        """(moments, values, points) at h = sqrt(q) z, for z of normal density."""
        x = self.q.sqrt() * z
        y, slope = self.activation(x).double() / self.size, self.activation.derivative(x).double()
        even, once, twice = density_ratios(x, self.w, self.uniform_bias)
        constant = self.at_zero / self.size  # it has no derivative: no rounding
        square, change, square_change = y.square(), y - constant, (y - constant) * (y + constant)
        size, size_change = y.abs(), y.abs() - constant.abs()
        forward = [y * even, square * even, square.square() * even, slope.square() * even]
        forward += [size * even]
        shares = [(1 + (y < 0).double()) * even, (1 + (y == 0).double()) * even]  # of 1: no noise
        changes = (change, size_change, square_change)
        slopes = [moved * by for moved in changes for by in (once, twice)]
        return torch.stack((forward + shares + slopes)[self.which])


def moments(integrand: Integrand) -> Array:
    """The moments, (moments, values). What does not exist is inf.

    Raises:
        ValueError: one of the first two does not exist.
    """
    found, which = by_rule(integrand), integrand.which
    if found is None:
        found = adaptively(integrand)
    with np.errstate(over="ignore"):
        values: Array = found * integrand.size.numpy().T ** _POWERS[which, None]
        for order in (1, 2):
            values = np.where(_ORDERS[which, None] >= order, values / integrand.w.numpy().T, values)
    return np.where(_SHARES[which, None], np.maximum(values - 1, 0.0), values)


def by_rule(integrand: Integrand) -> Array | None:
    """The integrals, (moments, values), over panels laid out beforehand; None if not exact.

    They are exact if panels half as wide give the same, and nothing is left in the tails. Values
    that are close to each other err alike, and only some of them are measured: the last, which
    sees most of phi, and every fifth before it.
    """
    edges = _edges(integrand)
    every = _EVERY if float(integrand.w[-1] / integrand.w[0]) < _CLOSE else 1
    some = slice((len(edges) - 1) % every, None, every)
    halves = torch.cat([edges, (edges[:, :-1] + edges[:, 1:]) / 2], dim=1)
    z, weights = gaussian.mesh(edges)
    found = (integrand(z) * weights).sum(2)
    z, weights = gaussian.mesh(halves[some])
    terms = integrand[some](z) * weights
    error, sizes = (found[:, some] - terms.sum(2)).abs(), terms.abs()
    whole, tails = sizes.sum(2), (sizes * (z.abs() > _TAIL)).sum(2)
    resolved = (error <= _RESOLVED * whole) & (tails <= _NOTHING * whole)  # and so no NaN
    return np.asarray(found.numpy()) if resolved.all() and found.isfinite().all() else None


def adaptively(integrand: Integrand) -> Array:
    """The same integrals for functions of any kind; what does not exist is inf.

    Raises:
        ValueError: one of the first two moments does not exist.
    """
    values, widest = len(integrand.w), float(integrand.q.max())

    def rows(x: Tensor) -> Tensor:
        return integrand(x / math.sqrt(widest)).flatten(0, 1)

    try:
        return np.reshape(gaussian.expect_rows(rows, widest), (-1, values))
    except ValueError:  # some do not exist
        if values > 1:
            return np.hstack([adaptively(integrand[i : i + 1]) for i in range(values)])
    found = gaussian.expect_rows(lambda x: rows(x)[:2], widest)
    for number in range(2, len(_POWERS[integrand.which])):
        try:
            found += gaussian.expect_rows(partial(lambda n, x: rows(x)[n : n + 1], number), widest)
        except ValueError:
            found.append(math.inf)
    return np.reshape(found, (-1, 1))


def _edges(integrand: Integrand) -> Tensor:
    """The ends of panels in z, (values, edges), ascending."""
    q = integrand.q
    # phi may bend where |h| is about 1, and is to be smooth on every panel, whatever q
    octaves = max(math.ceil(math.log2(float(q.max())) / 2), 0)
    steps = [*range(0, octaves - _DENSE, 2), *range(max(octaves - _DENSE, 0), octaves + 1)]
    near = torch.exp2(-torch.tensor(steps, dtype=torch.float64))
    wide = torch.arange(-_REACH, _REACH + 1, 2, dtype=torch.float64)
    breaks = torch.tensor(_breaks(integrand.activation), dtype=torch.float64)
    edges = [torch.cat([wide, near, -near]).expand(len(q), -1), breaks / q.sqrt()]
    if integrand.uniform_bias:  # the density of h bends at the ends of the biases' density
        bound = math.sqrt(3 * integrand.uniform_bias)
        around = torch.tensor([0, 2, -2, 4, -4, 8, -8, 16, -16]) * integrand.w.sqrt()
        edges += [(around + bound) / q.sqrt(), (around - bound) / q.sqrt()]
    return torch.cat(edges, dim=1).clamp(-_REACH, _REACH).sort(dim=1).values


@lru_cache(maxsize=64)
def _breaks(activation: Activation) -> tuple[float, ...]:
    """The kinks of phi and the x where its sign changes or becomes 0, without x = 0.

    Empty for a phi that oscillates.
    """
    right = torch.logspace(-3, 3, 1201, dtype=torch.float64)
    x = torch.cat([-right.flip(0), right])
    sign = activation(x).sign()
    left = (sign[:-1] != sign[1:]).nonzero().flatten()
    low, high, below = x[left], x[left + 1], sign[left]
    for _ in range(_BITS):
        middle = (low + high) / 2
        same = activation(middle).sign() == below
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    breaks = {kink for kink in (*activation.kinks, *high.tolist()) if abs(kink) > _ZERO}
    return tuple(breaks) if len(breaks) < _MANY else ()


def density_ratios(
    x: Tensor, w: Tensor | float, uniform_bias: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The density p of h, w dp/dw and w^2 d^2p/dw^2, each divided by the density of N(0, q)."""
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
