"""Batch normalization before an activation, at any size of the batch.

The pre-activations of a wide layer's unit over a batch are Gaussian; normalized, they are a uniform
point on a sphere of B - 1 dimensions, and two samples are coordinates of correlation -1 / (B - 1).
A gradient explodes, without a skip, by a constant factor a layer (Yang et al. 2019,
arXiv:1902.08129, theorems 5, 7, 8). Moments here are integrals over both coordinates' angles; the
gradient for any product between samples, and the residual stack, are derived here.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from initstats import gaussian
from initstats.activations import Activation
from initstats.gaussian import one_thread
from initstats.theory import sphere
from initstats.theory.response import response
from initstats.theory.sphere import Array


class BatchMoments(NamedTuple):
    """Moments of phi over a normalized batch; z, z' are two samples of a unit.

    Attributes:
        batch: B, or inf.
        square: E phi(z)^2, the second moment behind the activation.
        product: E phi(z) phi(z'), from which follows the correlation of two samples.
        own: E (1 - 1/B - z^2 / B) phi'(z)^2, share of a sample's gradient that comes back to it.
        other: E (1 + z z') phi'(z) phi'(z'), what two samples' gradients take from each other.
    """

    batch: float
    square: float
    product: float
    own: float
    other: float

    @property
    def correlation(self) -> float:
        """Of two samples behind the activation, whatever they were before; NaN if all is zero."""
        return self.product / self.square if self.square else math.nan

    @property
    def slope_square(self) -> float:
        """T: what stands for E phi'^2 where a batch's gradients have a sum of zero."""
        return self.own + self.other / self.batch

    def pull(self, gamma: float, rho: float, variance: float) -> tuple[float, float]:
        """Mean square, and mean product of two samples, of the gradient before the norm.

        gamma_in = B / (B - 3) [own gamma - (1 - 1/B) other rho] / variance: the gradient is freed
        of its mean and of what is along z, and divided by the batch's deviation. Its sum over the
        batch is zero.

        Args:
            gamma: mean square of the gradient with respect to an entry of phi(z).
            rho: mean product of the gradients of two samples.
            variance: q - K of the pre-activations, their second moment less their mean product.

        Returns:
            Both; (inf, -inf) for B = 3, where their means do not exist, (0, 0) for B = 2.
        """
        passed = self.own * gamma - (1 - 1 / self.batch) * self.other * rho
        square = (
            passed * _inverse_mean(self.batch) / variance
            if passed and variance
            else (math.inf if passed else 0.0)
        )
        return square, -square / (self.batch - 1)


@one_thread()
@lru_cache(maxsize=256)
def batch_norm_moments(activation: Activation, batch: float) -> BatchMoments:
    """What batch normalization and an activation make of a batch in general position.

    Args:
        activation: phi; `identity` for a norm that no activation follows.
        batch: B, samples (times positions) that are normalized together; `math.inf` for the limit.

    Raises:
        ValueError: no such batch; phi grows too fast for moments.
    """
    if not (batch == math.inf or (batch == int(batch) and batch >= 2)):
        raise ValueError(f"a batch has at least 2 samples, or is math.inf: got {batch}")
    if batch == math.inf:
        return _infinite(activation)
    kinks, d = sphere.bends(activation), int(batch) - 1
    z, weights = sphere.coordinate(d, _seen_twice(kinks, d))
    y, slope = sphere.values(activation, z)
    other_z, other_weights = _other(z, kinks, d)
    other_y, other_slope = sphere.values(activation, other_z)

    def joint(own: Array, other: Array) -> float:
        return float(weights @ (own * (other * other_weights).sum(1)))

    return BatchMoments(
        batch,
        square=float(weights @ y**2),
        product=joint(y, other_y),
        own=float(weights @ ((1 - 1 / batch - z**2 / batch) * slope**2)),
        other=joint(slope, other_slope) + joint(z * slope, other_z * other_slope),
    )


def batch_norm_rate(activation: Activation, batch: float) -> float:
    """The factor by which a layer of weights, batch norm and phi multiplies squared gradients.

    B T / ((B - 3) (E phi^2 - E phi phi')) = E gamma^l / E gamma^(l+1): above 1, and 1 only for a
    linear phi and an infinite batch. It holds for widths much larger than the batch, at any scale
    of the weights. For B = 3 the mean over draws does not exist and is inf; for B = 4 and 5 draws
    scatter without a finite variance. A batch of two is normalized to +-1, and no gradient comes
    back: 0.

    >>> from initstats import activations
    >>> round(batch_norm_rate(activations.get("relu"), 16), 5)
    1.58995

    Raises:
        ValueError: as `batch_norm_moments`.
    """
    moments = batch_norm_moments(activation, batch)
    return moments.pull(1.0, -1 / (batch - 1), moments.square - moments.product)[0]


def _inverse_mean(batch: float) -> float:
    """The mean of 1 / the variance of a batch of B normal numbers, B / (B - 3)."""
    return 1 / (1 - 3 / batch) if batch > 3 else math.inf


def _infinite(activation: Activation) -> BatchMoments:
    """The limit, of independent samples."""

    def slopes(z: Tensor) -> Tensor:
        slope = activation.derivative(z).double()
        return torch.stack([slope, z * slope])

    r = response(activation, 1.0)
    plain, radial = gaussian.expect_rows(slopes)
    mean, slope_square = float(r.mean), float(r.slope_square)
    return BatchMoments(math.inf, float(r.square), mean**2, slope_square, plain**2 + radial**2)


def _other(z: Array, kinks: Array, d: int) -> tuple[Array, Array]:
    """A second coordinate z' for every z, (nodes, others), and its weights, given the first.

    With sin t = z / sqrt(d), z' = sqrt(d) (r sin t + sqrt(1 - r^2) cos t v), r = -1/d, where v is a
    coordinate of a point on a sphere of d - 1 dimensions.
    """
    if d == 1:  # both samples of a batch of two
        return -z[:, None], np.ones((len(z), 1))
    sine = z[:, None] / math.sqrt(d)
    spread = math.sqrt(1 - 1 / d**2) * np.sqrt(np.maximum(1 - sine**2, np.finfo(float).eps))
    if d == 2:
        v, weights = np.array([[-1.0, 1.0]]), np.full((len(z), 2), 0.5)
    else:
        edges = np.concatenate([np.arange(-sphere.REACH, sphere.REACH + 1), kinks]) / math.sqrt(d)
        angles, weights = sphere.mesh(np.arcsin(((edges + sine / d) / spread).clip(-1, 1)), d - 1)
        v = np.sin(angles)
    return math.sqrt(d) * (spread * v - sine / d), weights


def _seen_twice(kinks: Array, d: int) -> Array:
    """The kinks, and the z beyond which no z' reaches a kink."""
    inside = kinks[np.abs(kinks) < math.sqrt(d)]
    reach = np.sqrt((1 - 1 / d**2) * (d - inside**2))
    return np.concatenate([kinks, -inside / d + reach, -inside / d - reach])
