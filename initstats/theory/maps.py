"""The maps from a layer to the next: second moments (lengths), correlations, patches.

q is the second moment of a pre-activation over the draw of the weights, c the correlation of two
samples' pre-activations (Poole et al. 2016, arXiv:1606.05340).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from initstats import activations, gaussian
from initstats.activations import Activation
from initstats.gaussian import Function, one_thread
from initstats.registry import unknown
from initstats.theory.integrals import density_ratios
from initstats.theory.response import response

Array = NDArray[np.float64]
Phi = str | Activation | Function
Bias = Literal["normal", "uniform"]

_REACH = 12.0  # standard deviations beyond which the density is nothing
_PANELS = (16, 32, 64, 128, 256)  # numbers of panels, tried until the digits stand
_AGREED = 1e-13  # change by twice as many panels that a mean may show, relative to the size of f
_CHUNK, _MOST = 2**20, 2**20  # most values of f at once, and most panels of both integrals


@one_thread()
def length_map(
    fn: Phi, q: ArrayLike, sigma_w2: float, sigma_b2: float = 0.0, *, bias: Bias = "normal"
) -> Array:
    """The next layer's q: sigma_w^2 E phi(h)^2 + sigma_b^2 for h with second moment q.

    Args:
        fn: the activation: a name, an entry, or a callable Tensor -> Tensor.
        q: second moments, any shape.
        sigma_w2: fan_in times the variance of a weight.
        sigma_b2: variance of a bias.
        bias: how biases are distributed; h is Gaussian only where they are normal.

    >>> length_map("relu", [1.0, 3.0], sigma_w2=2.0)
    array([1., 3.])

    Raises:
        ValueError: a q or a variance is out of range; E phi(h)^2 does not exist.
    """
    check_variance("sigma_w2", sigma_w2)
    check_variance("sigma_b2", sigma_b2)
    q = positive("q", q)
    shared = uniform_share(bias, sigma_b2)
    return sigma_w2 * response(activations.get(fn), q, shared).square + sigma_b2


@one_thread()
def correlation_map(
    fn: Phi,
    c: ArrayLike,
    sigma_w2: float,
    sigma_b2: float = 0.0,
    q: float = 1.0,
    *,
    bias: Bias = "normal",
) -> Array:
    """The next layer's correlation of two samples that both have second moment q.

    It is (sigma_w^2 E phi(u) phi(v) + sigma_b^2) / (sigma_w^2 E phi(u)^2 + sigma_b^2), for u and v
    of correlation c. With sigma_b2 = 0 it does not depend on sigma_w2, and for positively
    homogeneous functions not on q.

    >>> correlation_map("relu", [0.0, 1.0], sigma_w2=2.0).round(6)
    array([0.31831, 1.     ])

    Raises:
        ValueError: as `length_map`; c is not between -1 and 1; no signal is left to correlate.
    """
    entry, c = activations.get(fn), np.asarray(c, dtype=np.float64)
    if not (np.abs(c) <= 1).all():
        raise ValueError(f"a correlation c is between -1 and 1: got {c}")
    following = float(length_map(entry, q, sigma_w2, sigma_b2, bias=bias))
    if not 0 < following < math.inf:
        raise ValueError(f"the next layer's q is {following:g}: no correlation is defined")
    shared = uniform_share(bias, sigma_b2)
    kernels = [product_moment(entry.function, q, each * q, shared, entry.kinks) for each in c.flat]
    # rounding must not carry a correlation beyond 1, where the next map has no value
    return ((sigma_w2 * np.reshape(kernels, c.shape) + sigma_b2) / following).clip(-1, 1)


def patch_mean(power: Tensor, kernel: int, *, stride: int = 1, padding: int = 0) -> Tensor:
    """The mean of the input's power over the patch that a position reads (He et al. 2015).

    At every position, q is sigma_w^2 times this mean plus sigma_b^2, and E phi(h)^2 is the power
    that the next layer reads. Zeros of the padding count: a border loses power.

    Args:
        power: mean over channels of x^2, (..., height, width).
        kernel, stride, padding: those of the convolution, alike in both directions.

    Returns:
        (..., height, width) of the layer's output.

    >>> float(patch_mean(torch.ones(28, 28), 3, padding=1).mean()) == (82 / 84) ** 2
    True
    """
    planes = power.double().reshape(-1, 1, *power.shape[-2:])
    means = avg_pool2d(planes, kernel, stride, padding, count_include_pad=True)
    return means.view(*power.shape[:-2], *means.shape[-2:])


@one_thread()
def product_moment(
    f: Function, q: float, k: float, uniform_bias: float = 0.0, kinks: Sequence[float] = ()
) -> float:
    """E f(u) f(v) for u, v of second moment q and product moment k, to ten digits of E f(u)^2.

    u and v share a part t of variance |k|, and each has noise of variance q - |k|. For k > 0 the
    moment is E over t of (E over noise f(t + noise))^2: two plain integrals, which are split where
    f bends.

    Args:
        f: maps (points,) to (points,).
        q: second moment of u and of v.
        k: E u v.
        uniform_bias: the part of k that is the variance of uniform biases, which u and v share.
        kinks: the x where f is known to bend; others are found.

    Raises:
        ValueError: |k| > q; f is NaN; k is less than `uniform_bias`; f oscillates so fast that ten
            digits are out of reach.
    """
    if abs(k) > q * (1 + 1e-12):
        raise ValueError(f"a product moment is at most q: got {k:g} at q = {q:g}")
    if uniform_bias and k < uniform_bias * (1 - 1e-12):
        raise ValueError(
            f"samples share their uniform biases, so that their product moment is at least "
            f"{uniform_bias:g}: got {k:g}"
        )
    noise = math.sqrt(max(q - abs(k), 0.0))
    if noise <= 1e-8 * math.sqrt(q):  # v is u, or -u
        sign, w = math.copysign(1.0, k), q - uniform_bias
        return gaussian.expect(
            lambda x: f(x) * f(sign * x) * density_ratios(x, w, uniform_bias)[0], q
        )
    bends = gaussian.bends(f, q, kinks)
    spread = math.sqrt(abs(k))
    few = torch.linspace(-3, 3, 7, dtype=torch.float64)
    size = float(f(math.sqrt(q) * few).square().mean())
    panels = _enough_panels(f, spread * few, noise, bends, _AGREED * math.sqrt(size))
    out_of_reach = ValueError(
        f"E f(u) f(v) at q = {q:g} and a correlation of {k / q:g} is out of reach: f oscillates "
        "too fast for ten digits; ask for a smaller q"
    )
    if not panels:
        raise out_of_reach
    if spread == 0:
        return float(_smoothed(f, few.new_zeros(1), noise, bends, panels)) ** 2
    outer = _outer_edges(bends / spread, noise / spread, k < 0)
    inner = panels + int((bends.abs() < _REACH * noise).sum())
    if len(outer) * inner > _MOST:
        raise out_of_reach
    w = max(k - uniform_bias, 1e-12 * uniform_bias) if uniform_bias else spread**2

    def product(x: Tensor) -> Tensor:
        t = spread * x
        one = _smoothed(f, t, noise, bends, panels)
        other = one if k > 0 else _smoothed(f, -t, noise, bends, panels)
        # with E f^2 added, the integral need not resolve what is nothing beside it
        return size + one * other * density_ratios(t, w, uniform_bias)[0]

    return gaussian.integral(product, outer) - size


def _outer_edges(bends: Tensor, noise: float, mirrored: bool) -> Tensor:
    """Ends of panels for the integral over x = t / spread, the standardized part that is shared.

    Args:
        bends: the x where f bends.
        noise: standard deviation of the noise in x: bends that are closer count as one.
        mirrored: whether f(-t + noise) is integrated, too.
    """
    bends = torch.cat([bends, -bends]).sort().values if mirrored else bends
    apart = (2 * bends / noise).round().diff(prepend=bends.new_full((1,), -math.inf)) > 0
    wide = torch.arange(-_REACH, _REACH + 1, dtype=torch.float64)
    edges = torch.cat([wide, bends[apart & (bends.abs() < _REACH)]])
    return edges.sort().values


def _enough_panels(f: Function, t: Tensor, noise: float, bends: Tensor, error: float) -> int:
    """The number of panels that gives E f(t + noise z) to within an error; 0 if none does."""
    tried = ((panels, _smoothed(f, t, noise, bends, panels)) for panels in _PANELS)
    for (panels, means), (_, finer) in pairwise(tried):
        if ((finer - means).abs() <= error).all():
            return panels
    return 0


def _smoothed(f: Function, t: Tensor, noise: float, bends: Tensor, panels: int) -> Tensor:
    """E f(t + noise z) for every t (points,), over some panels that are split where f bends."""
    edges = torch.linspace(-_REACH, _REACH, panels + 1, dtype=torch.float64)
    first, last = (torch.searchsorted(bends, t + side * noise) for side in (-_REACH, _REACH))
    most = panels + int((last - first).max())
    means = torch.empty_like(t)
    neighbours = t.argsort()  # they are near the same bends
    for some in torch.split(neighbours, max(1, _CHUNK // (15 * most))):
        seen = torch.arange(int((last - first)[some].max()))
        near = bends[(first[some, None] + seen).clamp(max=len(bends) - 1)]
        splits = ((near - t[some, None]) / noise).clamp(-_REACH, _REACH)
        z, weights = gaussian.mesh(torch.cat([edges.expand(len(some), -1), splits], dim=1))
        means[some] = (f(t[some, None] + noise * z).double() * weights).sum(1)
    return means


def check_variance(name: str, value: float) -> None:
    """Raise ValueError for what is no variance."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is a variance, finite and at least 0: got {value}")


def uniform_share(bias: Bias, sigma_b2: float) -> float:
    """The part of q that uniform biases add."""
    if bias not in get_args(Bias):
        raise unknown("bias", bias, get_args(Bias))
    return sigma_b2 if bias == "uniform" else 0.0


def positive(name: str, q: ArrayLike) -> Array:
    """The second moments as an array, or ValueError for what is none."""
    values = np.asarray(q, dtype=np.float64)
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"{name} is a second moment, finite and above 0: got {q!r}")
    return values
