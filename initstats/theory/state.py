"""The kernel recursion: what is known of a layer's tensor, and the one step to the next.

Second moments, kernels and gradients at infinite width: Poole et al. 2016 (arXiv:1606.05340),
Schoenholz et al. 2017 (arXiv:1611.01232). Variance and shift to first order in 1 / width: Yaida
2019 (arXiv:1910.00019). Everything is a mean over draws of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.theory.cotangent import Cotangent as Cotangent
from initstats.theory.following import Attended as Attended
from initstats.theory.following import Heads as Heads
from initstats.theory.following import Joint as Joint
from initstats.theory.following import Law as Law
from initstats.theory.following import Pairs as Pairs
from initstats.theory.following import Taps as Taps
from initstats.theory.following import Unpredicted as Unpredicted
from initstats.theory.response import Response, response
from initstats.theory.sphere import sphere_moments

Array = NDArray[np.float64]

_NOTHING = 1e-12  # relative second moment that makes no difference to a mean
BENT = 1e-6
"""Relative curvature of G(q) that counts."""
_UNKNOWN: Any = np.float64(np.nan)


_NO_LAW = Law(np.nan)


@dataclass(frozen=True)
class State:
    """A layer's tensor. Arrays have an entry for each sample, and for each position of images.

    What is not known is NaN.

    Attributes:
        square: second moment over units and draws; for pre-activations, q.
        mean: mean over units and draws.
        V: variance of the second moment over draws, times the width.
        g: what a finite width adds to the second moment, times the width.
        k: product moment of both samples of each pair, (pairs,).
        V_pairs: covariance over draws of their second moments, times the width.
        pairs: gives what is behind an activation; None where no pairs are followed.
        law: law of the weights that gave pre-activations.
        width: number of units.
        gaussian: whether units are Gaussian, given their second moment.
        exact: whether second moments are exact at every width, for normal weights.
        settled: whether second moments are the same for every draw.
        batch: number of rows of which each unit is normalized; 0 where units are not.
        freedom: dimensions of the sphere on which a group of normalized units lies; 0 where they
            are not normalized.
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
    gaussian: bool = False
    exact: bool = True
    settled: bool = False
    batch: int = 0
    freedom: int = 0

    @classmethod
    def of_data(
        cls,
        q: Array,
        k: Array = _UNKNOWN,
        pairs: Pairs | None = None,
        mean: Array | None = None,
    ) -> State:
        """Samples of q = |x|^2 / n and pairs of k = x_a . x_b / n: nothing fluctuates.

        Args:
            q, k: as above.
            pairs: of the samples.
            mean: mean over entries of each sample; 0 unless it is given.
        """
        nothing = np.zeros_like(q)
        return cls(
            q,
            nothing if mean is None else mean,
            nothing,
            nothing,
            k,
            np.zeros_like(k),
            pairs,
            settled=True,
        )

    def through(self, law: Law, width: int) -> State:
        """The pre-activations of a layer that reads this tensor.

        q = sigma_w^2 E x^2 + sigma_b^2, and likewise for pairs.
        """
        w2, b2 = law.sigma_w2, law.sigma_b2
        square, k, exact, known = self.square, self.k, self.exact, 1.0
        if law.centred:
            square, exact, known = self._variance(centred=True), False, np.nan
            k = k - self.pairs.products(self.mean) if self.pairs else k
        q = w2 * square + b2
        if isinstance(self, Activated) and self.pairs is not None:
            q = np.maximum(q, _NOTHING * np.nanmax(q))  # less would only cost time
        return State(
            square=q,
            mean=np.zeros_like(self.square),
            V=w2**2 * self.V * known,
            g=w2 * self.g * known,
            k=w2 * k + b2,
            V_pairs=w2**2 * self.V_pairs,
            pairs=self.pairs,
            law=law,
            width=width,
            gaussian=True,
            exact=exact,
            settled=self.settled,
        )

    def activated(self, activation: Activation) -> Activated:
        """What an activation makes of these pre-activations.

        Raises:
            ValueError: E phi(h)^2 does not exist.
            Unpredicted: the units are not Gaussian.
        """
        if not self.gaussian:
            raise Unpredicted(
                "theory knows what an activation makes of Gaussian units: these are data, or a sum "
                "with activations"
            )
        r = response(activation, self.square, self.law.uniform_bias)
        w = self.square - self.law.uniform_bias
        of_length = 2 * (w * r.square_1) ** 2  # the noise that comes with the length of h
        noise = r.noise - (1 - self.law.radial) * of_length
        joint = self.pairs.behind(activation, self, r) if self.pairs else Joint(*3 * [_UNKNOWN])
        square = np.where(np.isinf(self.square), np.inf, r.square)
        if self.batch and self.pairs is not None:  # few rows are no Gaussian
            square, k = self.pairs.batch_activated(activation, self)
            joint = joint._replace(k=k)
        if self.freedom > 2:  # few units are no Gaussian either
            few, many = (sphere_moments(activation, d) for d in (self.freedom, math.inf))
            square = square * (few.square / many.square if many.square else 1.0)
            slopes = few.slope_square / many.slope_square if many.slope_square else 1.0
            r = r._replace(slope_square=r.slope_square * slopes)
        # a mean of phi^2 over draws is that at the mean q, if q is fixed or the map a straight line
        straight = bool((np.abs(r.square_2) * self.square**2 <= BENT * r.square).all())
        return Activated(
            square=square,
            mean=r.mean,
            V=noise + r.square_1**2 * self.V,
            g=self.shifted(r.square_1, r.square_2),
            k=joint.k,
            V_pairs=joint.V,
            pairs=self.pairs,
            width=self.width,
            exact=self.exact and (straight or (self.settled and self.law.radial == 1)),
            before=self,
            response=r,
            covariance=joint.covariance,
            activation=activation,
        )

    def shifted(self, slope: Array, curvature: Array) -> Array:
        """Width times the shift of a moment of phi(h), given its first two derivatives by q."""
        w = self.square - self.law.uniform_bias
        kept = (1 - self.law.radial) * w**2  # the part of lengths that does not fluctuate
        return np.asarray(slope * self.g + curvature * (self.V / 2 - kept))

    def normed(self, *, centred: bool, eps: float, freedom: int = 0, whole: bool = False) -> State:
        """Each sample over its root mean square, or that about its mean over units.

        Args:
            centred: whether the mean is taken off.
            eps: what is added to the variance.
            whole: whether all positions of a sample have the same mean and size; pairs are not
                followed then.
            freedom: dimensions that a group of units has to move in; 0 is as good as infinitely
                many.
        """
        if whole:
            return self._normed_as_one(centred=centred, eps=eps)
        variance = self._variance(centred=centred)
        size = np.sqrt(variance + eps)
        nothing = np.zeros_like(variance)
        k = self.k
        if self.pairs is not None:
            k = (k - self.pairs.products(self.mean) * centred) / self.pairs.products(size)
        return State(
            variance / size**2,
            nothing if centred else self.mean / size,
            V=nothing,
            g=nothing,
            k=k,
            V_pairs=np.zeros_like(k),
            pairs=self.pairs,
            width=self.width,
            gaussian=self.gaussian,
            settled=True,
            freedom=freedom if self.gaussian else 0,
        )

    def _normed_as_one(self, *, centred: bool, eps: float) -> State:
        """`normed` of images (samples, height, width) whose positions share mean and size."""
        mean, size = self._as_one(centred=centred, eps=eps)
        return State(
            (self.square - 2 * mean * self.mean + mean**2) / size**2,
            (self.mean - mean) / size,
            width=self.width,
            gaussian=self.gaussian,
            exact=False,
        )

    def _as_one(self, *, centred: bool, eps: float) -> tuple[Array, Array]:
        """Mean and size of an image, over units and positions."""
        mean = self.mean.mean((-2, -1), keepdims=True) * centred
        variance = self.square.mean((-2, -1), keepdims=True) - mean**2
        return mean, np.sqrt(np.maximum(variance, 0) + eps)

    def unnormed(
        self, cotangent: Cotangent, *, centred: bool, eps: float, whole: bool = False
    ) -> Cotangent:
        """The gradient before `normed`, at a number of units at which one more is nothing."""
        if whole:
            _, size = self._as_one(centred=centred, eps=eps)
            return replace(cotangent, square=cotangent.square / size**2)
        variance, product = self._variance(centred=centred) + eps, cotangent.product
        if product is not None and self.pairs is not None:
            product = product / self.pairs.products(np.sqrt(variance))
        return replace(cotangent, square=cotangent.square / variance, product=product)

    def _variance(self, *, centred: bool) -> Array:
        return self.square - self.mean**2 * centred

    def weighted(self, factor: float, keep: float = 1.0) -> State:
        """The tensor times a factor, and times 0 or 1 / keep for all units of a sample at once."""
        square = factor**2
        fluctuating = np.nan if keep < 1 else factor**4
        return State(
            square * self.square / keep,
            factor * self.mean,
            V=fluctuating * self.V,
            g=square * self.g / keep,
            k=square * self.k * (1 + (1 / keep - 1) * (self.pairs.same if self.pairs else 0.0)),
            V_pairs=fluctuating * self.V_pairs,
            pairs=self.pairs,
            width=self.width,
            gaussian=self.gaussian and keep == 1,
            exact=self.exact,
        )

    def plus(self, added: State) -> State:
        """A sum, where what is added has mean 0 whatever the tensor is: no product of both is left.

        How the second moment fluctuates is not followed.
        """
        return State(
            self.square + added.square,
            self.mean + added.mean,
            g=self.g + added.g,
            k=self.k + added.k,
            pairs=self.pairs,
            width=added.width,
            gaussian=self.gaussian and added.gaussian,
            exact=self.exact and added.exact,
        )

    def placed(self) -> State:
        """The sum with a vector for each position, normal, of second moment 1."""
        level = self.pairs.level if self.pairs else np.nan
        return State(
            self.square + 1,
            self.mean,
            k=self.k + level,
            pairs=self.pairs,
            width=self.width,
            gaussian=self.gaussian,
            exact=self.exact,
        )

    def dropped(self, keep: float) -> State:
        """Entries that are 0, or divided by the probability to be kept, each by itself."""
        return State(
            self.square / keep,
            self.mean,
            g=self.g / keep,
            k=self.k * (1 + (1 / keep - 1) * (self.pairs.own if self.pairs else 0.0)),
            pairs=self.pairs,
            width=self.width,
            exact=self.exact,
        )

    def over_positions(self, function: Callable[[Array], Array]) -> State:
        """The second moments that the positions of a layer read; all else is not known."""
        seen = np.asarray(function(self.square))
        return State(seen, np.zeros_like(seen))


@dataclass(frozen=True)
class Activated(State):
    """Activations, and the pre-activations that they come from."""

    before: State = field(kw_only=True)  # the pre-activations
    response: Response = field(kw_only=True)  # the moments of phi at their second moments
    covariance: Array = field(kw_only=True)  # as in `Joint`
    activation: Activation = field(kw_only=True)


def activated_by(state: State) -> Activated | None:
    """What batch norm reads, if an activation gave it, and None if its units are Gaussian.

    Raises:
        Unpredicted: neither is so.
    """
    if state.gaussian:
        return None
    if not isinstance(state, Activated):
        raise Unpredicted(
            "theory follows batch norm of Gaussian units, and of what an activation makes of them: "
            "these are data, sums with activations, or have lost some entries"
        )
    if state.before.batch:
        raise Unpredicted("theory follows one batch norm of an activation, before or behind it")
    return state
