"""The kernel recursion: what is known of a layer's tensor, and the one step to the next.

Second moments, kernels and gradients at infinite width: Poole et al. 2016 (arXiv:1606.05340),
Schoenholz et al. 2017 (arXiv:1611.01232). Variance and shift to first order in 1 / width: Yaida
2019 (arXiv:1910.00019). Everything is a mean over draws of the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.theory.response import Response, response

Array = NDArray[np.float64]

_NOTHING = 1e-12  # relative length that makes no difference to a mean
_UNKNOWN: Any = np.float64(np.nan)


class Unpredicted(Exception):
    """Theory ends here; the message says why."""


class Law(NamedTuple):
    """How the weights of a layer are distributed.

    Attributes:
        sigma_w2: fan_in times the variance of a weight.
        sigma_b2: variance of a bias.
        uniform_bias: the part of q that biases add and that is uniform: sigma_b2, or 0.
        radial: share of the fluctuation of a pre-activation's length over units that independent
            weights have: 1; for orthogonal ones less, 0 where they keep every length.
    """

    sigma_w2: float
    sigma_b2: float = 0.0
    uniform_bias: float = 0.0
    radial: float = 1.0


_NO_LAW = Law(np.nan)


class Joint(NamedTuple):
    """Two samples' activations, (pairs,) each.

    Attributes:
        k: E phi(u) phi(v).
        covariance: of phi(u) and phi(v).
        V: covariance over draws of both second moments, times the width; NaN where not known.
    """

    k: Array
    covariance: Array
    V: Array


class Pairs(Protocol):
    """Which samples are looked at together."""

    def behind(self, activation: Activation, state: State, r: Response) -> Joint:
        """What an activation makes of the pairs of a state of pre-activations."""


@dataclass(frozen=True)
class State:
    """A layer's tensor: arrays have an entry for each sample, and for each position of images.

    What is not known is NaN.

    Attributes:
        square: second moment over units and draws: the q of pre-activations.
        mean: over units and draws.
        V: variance of the second moment over draws, times the width.
        g: what a finite width adds to the second moment, times the width.
        k: product moment of both samples of each pair, (pairs,).
        V_pairs: covariance over draws of their second moments, times the width.
        pairs: which samples these are; None where no pairs are followed.
        law: of the weights that gave pre-activations.
        width: units.
    """

    square: Array
    mean: Array
    V: Array = _UNKNOWN
    g: Array = _UNKNOWN
    k: Array = _UNKNOWN
    V_pairs: Array = _UNKNOWN
    pairs: Pairs | None = None
    law: Law = _NO_LAW
    width: int = 0

    @classmethod
    def of_data(cls, q: Array, k: Array = _UNKNOWN, pairs: Pairs | None = None) -> State:
        """Samples of second moments q: certain, so that nothing fluctuates.

        Args:
            q: |x|^2 / n of each sample.
            k: x_a . x_b / n of each pair.
            pairs: which samples these are.
        """
        nothing = np.zeros_like(q)
        return cls(q, nothing, nothing, nothing, k, np.zeros_like(k), pairs)

    def through(self, law: Law, width: int) -> State:
        """The pre-activations of a layer that reads this tensor.

        q = sigma_w^2 E x^2 + sigma_b^2, and likewise for pairs.
        """
        w2, b2 = law.sigma_w2, law.sigma_b2
        return State(
            square=self._followed(w2 * self.square + b2),
            mean=np.zeros_like(self.square),
            V=w2**2 * self.V,
            g=w2 * self.g,
            k=w2 * self.k + b2,
            V_pairs=w2**2 * self.V_pairs,
            pairs=self.pairs,
            law=law,
            width=width,
        )

    def activated(self, activation: Activation) -> Activated:
        """What an activation makes of these pre-activations.

        Raises:
            ValueError: E phi(h)^2 does not exist.
        """
        r = response(activation, self.square, self.law.uniform_bias)
        w = self.square - self.law.uniform_bias
        noise = unit_noise(r) - (1 - self.law.radial) * radial_noise(r, w)
        joint = self.pairs.behind(activation, self, r) if self.pairs else Joint(*3 * [_UNKNOWN])
        return Activated(
            square=np.where(np.isinf(self.square), np.inf, r.square),
            mean=r.mean,
            V=noise + r.square_1**2 * self.V,
            g=self.shifted(r.square_1, r.square_2),
            k=joint.k,
            V_pairs=joint.V,
            pairs=self.pairs,
            width=self.width,
            before=self,
            response=r,
            covariance=joint.covariance,
        )

    def shifted(self, slope: Array, curvature: Array) -> Array:
        """Width times the shift of a moment of phi(h), whose derivatives by q are given."""
        w = self.square - self.law.uniform_bias
        kept = (1 - self.law.radial) * w**2  # lengths that do not fluctuate over units
        return np.asarray(slope * self.g + curvature * (self.V / 2 - kept))

    def over_positions(self, function: Callable[[Array], Array]) -> State:
        """The second moments that a layer's positions see of an image's; all else is not known."""
        seen = np.asarray(function(self.square))
        return State(seen, np.zeros_like(seen))

    def _followed(self, q: Array) -> Array:
        return q


@dataclass(frozen=True)
class Activated(State):
    """Activations, and the pre-activations behind them.

    Attributes:
        before: the pre-activations.
        response: the moments of phi at their second moments.
        covariance: of the activations of both samples of each pair, over units and draws.
    """

    before: State = field(kw_only=True)
    response: Response = field(kw_only=True)
    covariance: Array = field(kw_only=True)

    def _followed(self, q: Array) -> Array:
        """q, but for what is nothing beside the largest: it would only cost time."""
        return q if self.pairs is None else np.maximum(q, _NOTHING * np.nanmax(q))


@dataclass(frozen=True)
class Cotangent:
    """What theory knows of a gradient.

    Attributes:
        square: mean over units of its square, an entry for each sample (and position).
        given: whether it is the gradient that was put in at the end.
    """

    square: Array
    given: bool = True


def unit_noise(r: Response) -> Array:
    """Var phi(h)^2: over units, what makes the next second moment fluctuate."""
    return r.fourth - r.square**2


def radial_noise(r: Response, w: Array) -> Array:
    """The part of `unit_noise` that comes with the length of h: orthogonal weights have none.

    Args:
        r: moments of phi(h).
        w: variance of the Gaussian part of h.
    """
    return 2 * (w * r.square_1) ** 2
