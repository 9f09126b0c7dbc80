"""Rows that are all alike: each has the second moment q, and each two the product moment p.

Samples of a batch, or tokens of a sequence. Two numbers go forward, two come back, so that theory
of a thousand layers takes a second.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from initstats import activations
from initstats.activations import Activation
from initstats.theory.attention import TokenGradient, Tokens, attend, pull_attention
from initstats.theory.batch import batch_norm_moments
from initstats.theory.batch_after import CARRIED, AfterMoments, batch_after_moments
from initstats.theory.pairs import correlations, slope_products
from initstats.theory.response import Response
from initstats.theory.softmax import softmax_moments
from initstats.theory.state import (
    Activated,
    Attended,
    Cotangent,
    Heads,
    Joint,
    Pairs,
    State,
    Unpredicted,
    activated_by,
)

Array = NDArray[np.float64]

ONE_SEQUENCE = (
    "theory without data follows the tokens of one sequence, and batch norm reads those of a whole "
    "batch: see initstats.predict"
)
"""Why batch norm over tokens is not followed without data."""
_PAIR = np.zeros((2, 1), np.int64)
_UNKNOWN = np.array([np.nan])
_LEAST = 1e-300


class Exchangeable(Pairs):
    """One row, and the pair of it with any other.

    Args:
        tokens: whether rows are tokens of one sequence, and not samples.
    """

    def __init__(self, *, tokens: bool = False) -> None:
        self.same = float(tokens)

    def state(self, q: float, c: float) -> State:
        """Rows of second moment q and correlation c."""
        return State.of_data(np.array([q]), np.array([q * c]), self)

    def cotangent(self) -> Cotangent:
        """A unit-normal gradient, every row's own."""
        return Cotangent(np.ones(1), product=np.zeros(1), pairs=self)

    def products(self, values: Array) -> Array:
        """Squares."""
        return values**2

    def behind(self, activation: Activation, state: State, r: Response) -> Joint:
        """By Hermite series, to three digits."""
        lengths, c = self._seen(state)
        like = correlations(activation, lengths, _PAIR, c)
        covariance = like.value * np.maximum(r.square - r.mean**2, 0)
        return Joint(r.mean**2 + covariance, covariance, _UNKNOWN)

    def slopes(self, activation: Activation, state: State, r: Response) -> Array:
        """By the slope of those series."""
        lengths, c = self._seen(state)
        return slope_products(activation, lengths, _PAIR, c, r)

    def attended(self, state: State, heads: Heads) -> Attended:
        """Means of tokens that are weighted by the softmax of Gaussian logits."""
        if heads.causal:
            raise Unpredicted(
                "tokens that see only those before them are not all alike: theory follows them one "
                "by one"
            )
        q, p = self._tokens(state)
        found = attend(q, p, heads.tokens, **_gains(heads))
        logits = heads.logit_gain * q * q
        row = softmax_moments(logits, min(p / q, 1.0) if q else 1.0, heads.tokens)
        behind = State(
            np.array([found.square]),
            np.zeros(1),
            k=np.array([found.product]),
            pairs=self,
            width=state.width,
            exact=False,
        )
        entropy = row.entropy / math.log(heads.tokens) if heads.tokens > 1 else math.nan
        return Attended(behind, logits, row.concentration, entropy)

    def unattended(self, cotangent: Cotangent, state: State, heads: Heads) -> Cotangent:
        """Through the values, the queries and the keys."""
        return self._of(self._by_path(cotangent, state, heads).total)

    def batch_normed(self, state: State, batch: int) -> State:
        """Second moment 1, and correlation -1 / (batch - 1), whatever they were, if they differ.

        Behind an activation the moment is less, for what eps takes and units that do not vary.
        """
        if self.same:
            raise Unpredicted(ONE_SEQUENCE)
        behind = activated_by(state)
        square = self._after(behind, batch).square if behind else 1.0
        if not (square and (state.square > state.k).all()):
            raise Unpredicted("a batch of equal samples has no spread to be divided by")
        nothing = np.zeros(1)
        return State(
            np.full(1, square),
            nothing,
            V=nothing,
            g=nothing,
            k=np.array([-square / (batch - 1)]),
            V_pairs=nothing,
            pairs=self,
            width=state.width,
            gaussian=state.gaussian,
            settled=True,
            batch=batch,
        )

    def batch_activated(self, activation: Activation, state: State) -> tuple[Array, Array]:
        """By the integrals of Yang et al. (2019)."""
        found = batch_norm_moments(activation, state.batch)
        return np.array([found.square]), np.array([found.product])

    def unbatch_normed(self, cotangent: Cotangent, state: State, batch: int) -> Cotangent:
        """Through the norm, and an activation that follows it at once, or that it follows."""
        if isinstance(state, Activated):
            return self._through(self._after(state, batch), cotangent)
        activation, behind = cotangent.behind or (activations.get("identity"), cotangent)
        assert behind.product is not None
        variance = float((state.square - state.k)[0])
        gamma, rho = float(behind.square[0]), float(behind.product[0])
        moments = batch_norm_moments(activation, batch)
        square, product = moments.pull(gamma, rho, variance)
        return Cotangent(np.array([square]), given=False, product=np.array([product]), pairs=self)

    def _after(self, behind: Activated, batch: int) -> AfterMoments:
        """The moments of units that are normalized behind an activation."""
        h = behind.before
        try:
            return batch_after_moments(
                behind.activation, batch, float(h.square[0]), float(h.k[0]), h.law.uniform_bias
            )
        except ValueError as error:
            raise Unpredicted(str(error)) from None

    def _through(self, moments: AfterMoments, cotangent: Cotangent) -> Cotangent:
        """The gradient behind an activation, and what it becomes before it."""
        assert cotangent.product is not None
        if not moments.told:
            raise Unpredicted(CARRIED)
        own = cotangent.square - cotangent.product
        plain = own * moments.plain if moments.plain_told else _UNKNOWN
        behind, before = (
            Cotangent(square, given=False, product=product, pairs=self)
            for square, product in (
                (plain, -plain / (moments.batch - 1)),
                (own * moments.own, own * moments.other),
            )
        )
        return replace(behind, before=before, note="" if moments.plain_told else CARRIED)

    def mean(self, values: Array) -> float:
        """That of one row."""
        return float(values[0])

    pair_mean = mean

    def between(self, kernel: float, square: float) -> float:
        """The product moment of a pair."""
        return kernel

    def closure(self, state: State) -> Array:
        """Not known."""
        return _UNKNOWN

    def _seen(self, state: State) -> tuple[Array, Array]:
        """Second moment and correlation."""
        lengths = np.maximum(state.square, _LEAST)
        return lengths, np.clip(state.k / lengths, -1, 1)

    def _by_path(self, cotangent: Cotangent, state: State, heads: Heads) -> TokenGradient:
        """The gradient before attention, by the path on which it came back."""
        assert cotangent.product is not None
        gamma, rho = float(cotangent.square[0]), float(cotangent.product[0])
        q, p = self._tokens(state)
        return pull_attention(q, p, gamma, rho, heads.tokens, **_gains(heads))

    def _of(self, found: Tokens) -> Cotangent:
        return Cotangent(
            np.array([found.square]), given=False, product=np.array([found.product]), pairs=self
        )

    def _tokens(self, state: State) -> Tokens:
        q = float(state.square[0])
        return Tokens(q, min(float(state.k[0]), q))


class ValuesAlone(Exchangeable):
    """The same rows, whose gradients come back through the values of attention alone.

    Published recursions leave out queries and keys (Kedia et al. 2024, arXiv:2403.09635).
    """

    def unattended(self, cotangent: Cotangent, state: State, heads: Heads) -> Cotangent:
        """Through the values."""
        return self._of(self._by_path(cotangent, state, heads).values)


def _gains(heads: Heads) -> dict[str, float]:
    return {"logit_gain": heads.logit_gain, "value_gain": heads.value_gain}
