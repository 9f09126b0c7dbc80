"""The integrals behind the moments of phi(h), for many second moments of h in one pass.

By a rule whose panels are laid out beforehand, as it is known where phi and the density bend; its
error is measured, and where it is too large the quadrature of `initstats.gaussian` finds the panels
by itself, at some ten times the cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initstats import gaussian
from initstats.activations import Activation

Array = NDArray[np.float64]

_POWERS = np.array([1, 2, 4, 0, 0, 0, 1, 1, 2, 2])  # of phi in each moment
_ORDERS = np.array([0, 0, 0, 0, 0, 0, 1, 2, 1, 2])  # of its derivative by q
_SHARES = np.array([0, 0, 0, 0, 1, 1, 0, 0, 0, 0], dtype=bool)

_REACH, _TAIL = 14.0, 12.0  # of the rule, in z, and where nothing should be left
_DENSE = 5  # octaves of |h| beyond which phi bends so slowly that panels may take two
_RESOLVED = 1e-12  # share of a moment by which finer panels may change it
_NOTHING = 1e-14  # share of a moment that may lie in the tail
_EVERY, _CLOSE = 5, 8.0  # values of which one is measured, where all are as close as this
_BITS = 60  # of the place where phi changes its sign
_ZERO = 1e-15  # as such a place
_MANY = 32  # such places: phi oscillates


@dataclass(frozen=True)
class Integrand:
    """Moments before they are integrated, in units that keep fourth powers within float64.

    Attributes:
        activation: phi.
        w: variances of the Gaussian part of h, (values, 1), ascending, above 0.
        uniform_bias: the rest of q, which is uniform.
        at_zero: phi(0).
        which: of the fields of `Response`.
    """

    activation: Activation
    w: Tensor
    uniform_bias: float
    at_zero: float
    which: slice

    @property
    def q(self) -> Tensor:
        """(values, 1)."""
        return self.w + self.uniform_bias

    @cached_property
    def size(self) -> Tensor:
        """A bound that phi seldom exceeds, (values, 1); 1 where that is 0."""
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
        forward = [y * even, square * even, square.square() * even, slope.square() * even]
        shares = [(1 + (y < 0).double()) * even, (1 + (y == 0).double()) * even]  # of 1: no noise
        slopes = [change * once, change * twice, square_change * once, square_change * twice]
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
            derivatives = _ORDERS[which, None] >= order
            values = np.where(derivatives, values / integrand.w.numpy().T, values)
    return np.where(_SHARES[which, None], np.maximum(values - 1, 0.0), values)


def by_rule(integrand: Integrand) -> Array | None:
    """The integrals, (moments, values), over panels laid out beforehand; None if these do not do.

    They do where panels half as wide give the same, and nothing is left in the tails. Of values
    that are close to each other, and so err alike, some are measured: the last, which sees most of
    phi, and others.
    """
    edges = _edges(integrand)
    every = _EVERY if float(integrand.w[-1] / integrand.w[0]) < _CLOSE else 1
    some = slice((len(edges) - 1) % every, None, every)
    halves = torch.cat([edges, (edges[:, :-1] + edges[:, 1:]) / 2], dim=1)
    found = _terms(integrand, edges)[0].sum(2)
    terms, z = _terms(integrand[some], halves[some])
    error, sizes = (found[:, some] - terms.sum(2)).abs(), terms.abs()
    whole, tails = sizes.sum(2), (sizes * (z.abs() > _TAIL)).sum(2)
    resolved = (error <= _RESOLVED * whole) & (tails <= _NOTHING * whole)  # and so no NaN
    return np.asarray(found.numpy()) if resolved.all() and found.isfinite().all() else None


def adaptively(integrand: Integrand) -> Array:
    """The same for functions of any kind; what does not exist is inf.

    Raises:
        ValueError: one of the first two moments does not exist.
    """
    widest = float(integrand.q.max())

    def rows(x: Tensor) -> Tensor:
        return integrand(x / math.sqrt(widest)).flatten(0, 1)

    values = len(integrand.w)
    try:
        found = list(gaussian.expect_rows(rows, widest))
    except ValueError:  # some do not exist
        if values > 1:
            return np.hstack([adaptively(integrand[i : i + 1]) for i in range(values)])
        found = _existing(rows, widest)
    return np.reshape(found, (-1, values))


def _terms(integrand: Integrand, edges: Tensor) -> tuple[Tensor, Tensor]:
    """What the integrals are sums of, (moments, values, points), and where, (values, points)."""
    z, weights = gaussian.mesh(edges)
    return integrand(z) * weights, z


def _edges(integrand: Integrand) -> Tensor:
    """The ends of panels in z, (values, edges), ascending."""
    q = integrand.q
    # Whatever q, phi is to be smooth on panels: it may bend where |h| is some 1.
    octaves = max(math.ceil(math.log2(float(q.max())) / 2), 0)
    steps = [*range(0, octaves - _DENSE, 2), *range(max(octaves - _DENSE, 0), octaves + 1)]
    near = torch.exp2(-torch.tensor(steps, dtype=torch.float64))
    wide = torch.arange(-_REACH, _REACH + 1, 2, dtype=torch.float64)
    breaks = torch.tensor(_breaks(integrand.activation), dtype=torch.float64)
    edges = [torch.cat([wide, near, -near]).expand(len(q), -1), breaks / q.sqrt()]
    if integrand.uniform_bias:  # the density bends at the ends of the uniform one
        bound = math.sqrt(3 * integrand.uniform_bias)
        around = torch.tensor([0, 2, -2, 4, -4, 8, -8, 16, -16]) * integrand.w.sqrt()
        edges += [(around + bound) / q.sqrt(), (around - bound) / q.sqrt()]
    return torch.cat(edges, dim=1).clamp(-_REACH, _REACH).sort(dim=1).values


@lru_cache(maxsize=64)
def _breaks(activation: Activation) -> tuple[float, ...]:
    """The kinks of phi, and where its sign changes, be it to zero; but for x = 0.

    None of a phi that oscillates.
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


def _existing(rows: Callable[[Tensor], Tensor], q: float) -> list[float]:
    """The expectations of rows, one by one; inf for each that does not exist but the first two."""
    found = list(gaussian.expect_rows(lambda x: rows(x)[:2], q))
    for number in range(2, len(rows(torch.zeros(1, dtype=torch.float64)))):
        try:
            found += gaussian.expect_rows(partial(_one, rows, number), q)
        except ValueError:
            found.append(math.inf)
    return found


def _one(rows: Callable[[Tensor], Tensor], number: int, x: Tensor) -> Tensor:
    return rows(x)[number : number + 1]


def density_ratios(
    x: Tensor, w: Tensor | float, uniform_bias: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The density of h over that of N(0, q), and w d/dw and w^2 d^2/dw^2 of it over the same."""
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
