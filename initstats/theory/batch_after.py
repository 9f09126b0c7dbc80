"""Batch normalization behind an activation, at any size of the batch.

A unit's pre-activations h over a batch are Gaussian, y = phi(h), and z is y less its mean over the
batch, over s, the root of its variance and eps. Where samples are all alike, any two z have the
mean product -1 / (B - 1), whatever phi is. The way back has no closed form, since phi', z and s are
of one unit: its moments are means over units that are drawn. Derived here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri

from initstats.activations import Activation
from initstats.gaussian import one_thread

Array = NDArray[np.float64]

EPS = 1e-5
"""What torch's norms add to a variance by default."""
CARRIED = (
    "a batch has nearly no spread in some units, and the mean of gradients there is that of these "
    "alone: theory has no number for it; take a larger batch"
)
"""Why a mean over units that are drawn is not told."""

_ENOUGH = 0.002  # relative standard error of a mean over units that stops the draws
_MOST = 0.015  # and the largest that is told
_ENTRIES, _LEAST, _ALL = 2**18, 2**20, 2**24  # numbers drawn at once, fewest and most of all
_UNITS = 2**20  # most units
_LARGEST = 4096  # samples of a batch; what more would change is below the error
_NEAR = 1e-4, 3.0  # from a kink
_TINY = 1e-300
_NOTHING = 1e-6  # relative variance of what samples share that is rounding
_SPREAD = 2.0  # of what samples share, when it is drawn: units without spread are far out


class AfterMoments(NamedTuple):
    """Moments of a unit that is normalized behind an activation.

    With P = I - 1 1' / B - z z' / B, a gradient g of z becomes P g / s of y, and phi' times that
    of h.

    Attributes:
        batch: B.
        square: E z^2: 1, less what eps takes, and units that do not vary.
        own: E (P P)_aa phi'(h_a)^2 / s^2.
        other: E (P P)_ab phi'(h_a) phi'(h_b) / s^2.
        plain: E (P P)_aa / s^2.
        error: relative standard error of own - other.
        plain_error: that of plain.
    """

    batch: float
    square: float
    own: float
    other: float
    plain: float
    error: float
    plain_error: float

    @property
    def product(self) -> float:
        """E z z' of two samples, whose batch has a sum of zero."""
        return -self.square / (self.batch - 1)

    @property
    def told(self) -> bool:
        """Whether so many units carry the gradient of h that its mean is known."""
        return self.error < _MOST

    @property
    def plain_told(self) -> bool:
        """Whether so many carry that of y."""
        return self.plain_error < _MOST


def batch_after_moments(
    activation: Activation, batch: float, q: float, k: float, uniform_bias: float = 0.0
) -> AfterMoments:
    """What an activation and batch normalization make of samples that are all alike.

    Means are over draws of units, with a fixed seed, until the standard error of `own - other` is
    0.2%, or for 16 million numbers or a million units: 0.6% for batches of 1024, 1.5% for those of
    4.

    Args:
        activation: phi.
        batch: B, samples that are normalized together.
        q, k: second moment of the pre-activations, and product moment of two samples, k < q.
        uniform_bias: the part of both that uniform biases add.

    Raises:
        ValueError: no such batch; phi grows too fast for moments.
    """
    if not (batch == int(batch) and batch >= 2):
        raise ValueError(f"a batch has at least 2 samples: got {batch}")
    # layers whose q differs in what does not matter share their moments
    near = (float(f"{value:.7g}") for value in (q, k, uniform_bias))
    found = _moments(activation, min(int(batch), _LARGEST), *near)
    if not all(map(math.isfinite, found)):
        raise ValueError(f"{activation.name} grows too fast for moments behind batch norm")
    return found._replace(batch=batch)


@one_thread()
@lru_cache(maxsize=256)
def _moments(
    activation: Activation, batch: int, q: float, k: float, uniform_bias: float
) -> AfterMoments:
    noise = np.random.default_rng(0)
    units = max(2, _ENTRIES // batch)
    count, sums = 0, np.zeros((3, 5))
    size = squares = 0.0
    error = plain_error = math.inf
    while count * batch < _LEAST or (error > _ENOUGH and count < _UNITS and count * batch < _ALL):
        h, weights = _drawn(noise, (units, batch), q, k, uniform_bias, activation.kinks)
        values, seen = _unit_moments(activation, h), weights**2
        # sums of squares about a mean that is known only in the end
        sums += np.stack([values @ weights, values @ seen, values**2 @ seen])
        count, size, squares = count + units, size + weights.sum(), squares + seen.sum()
        means = sums[0] / size
        spread = sums[2] - 2 * means * sums[1] + means**2 * squares
        errors = np.sqrt(np.maximum(spread, 0)) / size
        plain_error, error = (float(errors[at] / means[at]) if means[at] else 0.0 for at in (3, 4))
    square, own, other, plain = (float(mean) for mean in means[:4])
    return AfterMoments(batch, square, own, other, plain, error, plain_error)


def shared_part(
    noise: np.random.Generator, apart: Array, scale: Array, kinks: Sequence[float], batch: int
) -> tuple[Array, Array]:
    """What all samples of a unit have in common, (units,), and weights that make it N(0, 1).

    Half of the numbers are spread wider than that. Half lie where the foremost sample of a batch is
    just beyond a kink of phi: if phi is flat before it, that sample is all that varies.

    Args:
        apart: what samples have for themselves, (units, samples).
        scale: by which samples are moved, (samples,); pre-activations are apart + scale * shared.
        kinks: the x where phi bends.
        batch: samples that are normalized together, of which there may be several.
    """
    units = len(apart)
    wide = _SPREAD * ndtri((noise.permutation(units) + noise.random(units)) / units)
    if not (kinks and (scale > 0).all()):
        return wide, _density(wide) / _density(wide / _SPREAD) * _SPREAD
    crossed = (np.array(kinks)[:, None, None] - apart) / scale
    crossed = crossed.swapaxes(0, 1).reshape(units, -1, batch)  # by kinks and batches
    starts = np.concatenate([crossed.min(-1), -crossed.max(-1)], axis=1)  # moving up, and down
    signs = np.repeat([1.0, -1.0], starts.shape[1] // 2)
    near, far = (reach / float(scale.mean()) for reach in _NEAR)
    chosen = noise.integers(len(signs), size=units)
    beyond = near * (far / near) ** noise.random(units)
    close = signs[chosen] * (starts[np.arange(units), chosen] + beyond)
    values = np.where(noise.permutation(units) % 2, close, wide)
    distance = values[:, None] * signs - starts
    inside = (distance >= near) & (distance <= far)
    share = np.where(inside, 1 / np.where(inside, distance, 1.0), 0.0).mean(1)
    density = _density(values / _SPREAD) / _SPREAD / 2 + share / math.log(far / near) / 2
    return values, _density(values) / np.maximum(density, _TINY)


def _density(x: Array) -> Array:
    return np.asarray(np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi))


def _drawn(
    noise: np.random.Generator,
    shape: tuple[int, int],
    q: float,
    k: float,
    uniform_bias: float,
    kinks: Sequence[float],
) -> tuple[Array, Array]:
    """Pre-activations (units, samples), and a weight for each unit."""
    units, batch = shape
    apart = noise.standard_normal(shape)
    apart -= apart.mean(1, keepdims=True)
    apart *= math.sqrt(max(q - k, 0.0))
    if uniform_bias:
        apart += math.sqrt(3 * uniform_bias) * (2 * noise.random((units, 1)) - 1)
    level = (q - uniform_bias + (batch - 1) * (k - uniform_bias)) / batch
    scale = np.full(batch, math.sqrt(level) if level > _NOTHING * q else 0.0)
    shared, weights = shared_part(noise, apart, scale, kinks, batch)
    return apart + shared[:, None] * scale, weights


def _unit_moments(activation: Activation, h: Array) -> Array:
    """The moments of each unit over its batch, (moments, units), and last own - other."""
    batch = h.shape[1]
    slope = activation.derivative(torch.from_numpy(h)).double().numpy()
    z, size = normalized(activation(torch.from_numpy(h)).double().numpy())
    kept = (z**2).mean(1)  # 1, less what eps takes
    twice = (2 - kept) / batch  # P P = I - 1 1' / B - twice z z'
    square = slope**2
    own = (square * (1 - 1 / batch - twice[:, None] * z**2)).sum(1)
    both = square.sum(1) - slope.sum(1) ** 2 / batch - twice * (slope * z).sum(1) ** 2
    other = (both - own) / (batch * (batch - 1))
    own = own / batch
    plain = 1 - 1 / batch - twice * kept
    moments = np.stack([own, other, plain, own - other]) / size[:, 0] ** 2
    return np.concatenate([kept[None], moments])


def normalized(y: Array, eps: float = EPS) -> tuple[Array, Array]:
    """Rows (..., samples) less their mean, over their size, and that size, (..., 1)."""
    z = y - y.mean(-1, keepdims=True)
    size = np.sqrt((z**2).mean(-1, keepdims=True) + eps)
    return z / size, size
