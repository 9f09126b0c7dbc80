"""What a state has beside its numbers: the laws of its weights, and the pairs that it follows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.theory.cotangent import Cotangent as Cotangent
from initstats.theory.cotangent import Unpredicted as Unpredicted
from initstats.theory.response import Response

if TYPE_CHECKING:
    from initstats.theory.state import Activated, State

Array = NDArray[np.float64]


class Law(NamedTuple):
    """How the weights of a layer are distributed.

    Attributes:
        sigma_w2: fan_in times the variance of a weight.
        sigma_b2: variance of a bias.
        uniform_bias: the part of q that uniform biases add: sigma_b2, or 0.
        radial: fluctuation of the length of h over a layer's units, as a share of that under
            independent weights: 1 for these, 0 for orthogonal weights that keep every length.
        centred: whether a unit's weights have mean 0, so that it does not see the mean over units.
    """

    sigma_w2: float
    sigma_b2: float = 0.0
    uniform_bias: float = 0.0
    radial: float = 1.0
    centred: bool = False


class Heads(NamedTuple):
    """The laws of attention.

    Attributes:
        tokens: of a sequence.
        logit_gain: sigma_Q^2 sigma_K^2, times the units of a head and the square of their factor.
        value_gain: sigma_V^2.
        causal: whether a token sees itself and those before it alone.
    """

    tokens: int
    logit_gain: float
    value_gain: float
    causal: bool = False


class Taps(NamedTuple):
    """How a convolution gathers what a position reads.

    Attributes:
        kernel, stride, padding: alike in both directions.
        sides: height and width of what it reads.
    """

    kernel: int
    stride: int
    padding: int
    sides: tuple[int, int]


class Attended(NamedTuple):
    """What attention makes of rows.

    Attributes:
        state: of the weighted means of values.
        logits: second moment of the logits.
        concentration: the sum of the squares of a row's weights.
        entropy: of a row's weights, over its largest.
    """

    state: State
    logits: float
    concentration: float
    entropy: float


class Joint(NamedTuple):
    """What is known of the activations of pairs of samples, arrays (pairs,)."""

    k: Array  # E phi(u) phi(v)
    covariance: Array  # of phi(u) and phi(v), over units and draws
    V: Array  # covariance over draws of their second moments, times the width; NaN where not known


class Pairs(ABC):
    """The pairs of rows that a state follows; a row is a sample, or a token of one.

    Attributes:
        own: 1 for a pair of a row with itself, else 0, (pairs,) or for all.
        same: 1 for a pair of rows of one sample, likewise.
        level: 1 for a pair of rows at one position, be it of two samples, likewise.
    """

    own: Array | float = 0.0
    same: Array | float = 0.0
    level: Array | float = 0.0

    @abstractmethod
    def products(self, values: Array) -> Array:
        """Products of both rows of each pair, (pairs,), of values for each row."""

    @abstractmethod
    def behind(self, activation: Activation, state: State, r: Response) -> Joint:
        """What an activation makes of the pairs in a state of pre-activations."""

    def slopes(self, activation: Activation, state: State, r: Response) -> Array:
        """E phi'(u) phi'(v) of each pair in a state of pre-activations, (pairs,)."""
        raise Unpredicted(self._unknown("how gradients of two samples agree"))

    def unactivated(
        self, cotangent: Cotangent, activation: Activation, behind: Activated
    ) -> Cotangent | None:
        """The gradient before an activation; None where it does not depend on the same numbers."""
        return None

    def end(self, state: State) -> Cotangent:
        """A unit-normal gradient at the end of a network."""
        return Cotangent(np.ones_like(state.square))

    def patched(self, state: State, read: State, taps: Taps) -> State:
        """What patches hold, given their second moments."""
        return read

    def unpatched(self, cotangent: Cotangent, square: Array, taps: Taps) -> Cotangent:
        """The gradient before that, given its mean squares."""
        return replace(cotangent, square=square)

    def attended(self, state: State, heads: Heads) -> Attended:
        """What attention makes of the rows."""
        raise Unpredicted(self._unknown("attention"))

    def unattended(self, cotangent: Cotangent, state: State, heads: Heads) -> Cotangent:
        """The gradient before attention, through values, queries and keys."""
        raise Unpredicted(self._unknown("attention"))

    def batch_normed(self, state: State, batch: int) -> State:
        """Rows less the mean of a batch, over its standard deviation."""
        raise Unpredicted(self._unknown("batch norm"))

    def batch_activated(self, activation: Activation, state: State) -> tuple[Array, Array]:
        """Second moments of the rows, and products of the pairs, behind an activation of these."""
        raise Unpredicted(self._unknown("batch norm"))

    def unbatch_normed(self, cotangent: Cotangent, state: State, batch: int) -> Cotangent:
        """The gradient before that."""
        raise Unpredicted(self._unknown("batch norm"))

    def _unknown(self, what: str) -> str:
        return f"theory does not follow {what} over the samples of a data set yet"
