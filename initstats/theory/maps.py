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

_REACH = 12.0  # where what is left of the density is nothing
_PANELS = (16, 32, 64, 128, 256)  # tried until the digits stand
_AGREED = 1e-13  # by which twice as many may change a mean, relative to the size of f
_CHUNK, _MOST = 2**20, 2**20  # values of f at once, and panels of both integrals


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

    (sigma_w^2 E phi(u) phi(v) + sigma_b^2) / (sigma_w^2 E phi(u)^2 + sigma_b^2), for u and v of
    correlation c; with sigma_b2 = 0 it is the same for every sigma_w2. Independent of q for
    positively homogeneous functions.

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
    # Rounding must not carry a correlation beyond 1, where the next map has no value.
    return ((sigma_w2 * np.reshape(kernels, c.shape) + sigma_b2) / following).clip(-1, 1)


def patch_mean(power: Tensor, kernel: int, *, stride: int = 1, padding: int = 0) -> Tensor:
    """What a convolution's units see: the mean of the input's power over a patch (He et al. 2015).

    sigma_w^2 times it plus sigma_b^2 is q, position by position; behind it, E phi(h)^2 is the next
    power. Padding adds zeros, and they count: a border loses power.

    Args:
        power: mean over channels of x^2, (..., height, width).
        kernel: side of the patch.
        stride: step between patches.
        padding: zeros at every side.

    Returns:
        (..., height, width) behind the layer.

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

    u and v share a part t of variance |k| and have noise of variance q - |k| each, so it is
    E over t of (E over noise f(t + noise))^2: two plain integrals, split where f bends, which is
    looked for but at the kinks that are given.

    Raises:
        ValueError: |k| > q; f is NaN; u and v have opposite signs and share uniform biases; f
            oscillates so fast that ten digits are out of reach.
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
    if spread == 0:
        return float(_smoothed(f, few[3:4], noise, bends, panels)) ** 2
    outer = _outer_edges(bends / spread, noise / spread, k < 0)
    inner = panels + int((bends.abs() < _REACH * noise).sum())
    if not panels or len(outer) * inner > _MOST:
        raise ValueError(
            f"E f(u) f(v) at q = {q:g} and a correlation of {k / q:g} is out of reach: f "
            "oscillates too fast for ten digits; ask for a smaller q"
        )
    w = max(k - uniform_bias, 1e-12 * uniform_bias) if uniform_bias else spread**2

    def product(x: Tensor) -> Tensor:
        t = spread * x
        one = _smoothed(f, t, noise, bends, panels)
        other = one if k > 0 else _smoothed(f, -t, noise, bends, panels)
        # beside E f^2, what is nothing need not be resolved
        return size + one * other * density_ratios(t, w, uniform_bias)[0]

    return gaussian.integral(product, outer) - size


def _outer_edges(bends: Tensor, noise: float, mirrored: bool) -> Tensor:
    """Where to split the integral over what u and v share, as a standard normal x.

    Args:
        bends: those of f, over the spread of what is shared.
        noise: over which they are smoothed: bends that are closer are one.
        mirrored: whether v is f of -t.
    """
    bends = torch.cat([bends, -bends]).sort().values if mirrored else bends
    apart = (2 * bends / noise).round().diff(prepend=bends.new_full((1,), -math.inf)) > 0
    wide = torch.arange(-_REACH, _REACH + 1, dtype=torch.float64)
    edges = torch.cat([wide, bends[apart & (bends.abs() < _REACH)]])
    return edges.sort().values


def _enough_panels(f: Function, t: Tensor, noise: float, bends: Tensor, error: float) -> int:
    """How many panels give E f(t + noise z) to some error; 0 if as many as may be do not."""
    last = _smoothed(f, t, noise, bends, _PANELS[0])
    for panels, more in pairwise(_PANELS):
        this = _smoothed(f, t, noise, bends, more)
        if ((this - last).abs() <= error).all():
            return panels
        last = this
    return 0


def _smoothed(f: Function, t: Tensor, noise: float, bends: Tensor, panels: int) -> Tensor:
    """E f(t + noise z) for every t (points,), by so many panels and more where f bends."""
    edges = torch.linspace(-_REACH, _REACH, panels + 1, dtype=torch.float64)
    first, last = (torch.searchsorted(bends, t + side * noise) for side in (-_REACH, _REACH))
    most = panels + int((last - first).max())
    means = torch.empty_like(t)
    for some in torch.split(
        t.argsort(), max(1, _CHUNK // (15 * most))
    ):  # neighbours see as many bends
        seen = torch.arange(int((last - first)[some].max()))
        near = bends[(first[some, None] + seen).clamp(max=len(bends) - 1)]
        splits = ((near - t[some, None]) / noise).clamp(-_REACH, _REACH)
        z, weights = gaussian.mesh(torch.cat([edges.expand(len(some), -1), splits], dim=1))
        means[some] = (f(t[some, None] + noise * z).double() * weights).sum(1)
    return means


def check_variance(name: str, value: float) -> None:
    """Refuse what is no variance."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is a variance, finite and at least 0: got {value}")


def uniform_share(bias: Bias, sigma_b2: float) -> float:
    """The part of q that is uniformly distributed."""
    if bias not in get_args(Bias):
        raise unknown("bias", bias, get_args(Bias))
    return sigma_b2 if bias == "uniform" else 0.0


def positive(name: str, q: ArrayLike) -> Array:
    """Refuse what is no second moment of a signal."""
    values = np.asarray(q, dtype=np.float64)
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"{name} is a second moment, finite and above 0: got {q!r}")
    return values
