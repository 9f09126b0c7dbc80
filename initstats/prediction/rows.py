"""Rows of the table from what theory knows of dense layers.

Shifts and spreads are those of the first order in 1 / width; rows say where that does not suffice.
"""

from __future__ import annotations

import math
from typing import Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.prediction.samples import TINY
from initstats.theory import State, absolute_moments, response
from initstats.theory.state import Activated

Array = NDArray[np.float64]

_SHIFT, _BETA = 0.1, 0.3  # relative shift and variance beyond which a first order does not suffice
_UNIFORM = 1.2  # minus the excess kurtosis of a uniform variable


class Population(Protocol):
    """The rows of a dataset that theory follows, and their means over all of it."""

    def mean(self, values: Array) -> float:
        """Mean over all rows."""

    def pair_mean(self, values: Array) -> float:
        """Mean over all pairs of rows."""

    def between(self, kernel: float, square: float) -> float:
        """Mean over pairs of different rows, given those over all pairs and over rows."""

    def products(self, values: Array) -> Array:
        """Products of both rows of each pair."""

    def closure(self, state: State) -> Array:
        """E q_a q_b over E q_a E q_b, means over draws."""


class Row(TypedDict, total=False):
    """What theory says of one place; what is absent is unknown."""

    mean: float
    std: float
    second_moment: float
    abs_mean: float
    negative_fraction: float
    zero_fraction: float
    unit_mean_std: float
    sample_correlation: float
    second_moment_spread: float
    second_moment_error: float
    branch_share: float
    pair_correlation: float
    participation_ratio: float
    attention_entropy: float
    concentration: float
    claim: str
    note: str


EXACT, FIRST_ORDER, INFINITE = "exact", "first order", "infinite width"
"""What a row claims of its second moment: the mean over draws of normal weights at every width, to
first order in 1 / width, or at an infinite one."""


def row_of(samples: Population, activation: Activation, state: State) -> Row:
    """The row of a tensor of samples without positions."""
    before = state.before if isinstance(state, Activated) else state
    note = doubt(samples, activation, before)
    if abs(_shift(samples, before)) > 1:
        return Row(note=note)
    if np.isnan(before.g + before.V).any():
        return _at_infinite_width(samples, state)
    width, law = state.width, state.law
    square, shift = samples.mean(state.square), samples.mean(state.g) / width
    kernel = samples.pair_mean(state.k)
    if isinstance(state, Activated):
        r = state.response
        mean = samples.mean(r.mean + before.shifted(r.mean_1, r.mean_2) / width)
        absolute = r.absolute, r.absolute_1, r.absolute_2
        covariance = samples.pair_mean(state.covariance)
        moved = (samples.products(r.mean_1) * before.V_pairs).mean()
        negative, zero = samples.mean(r.negative), samples.mean(r.zero)
        variance = state.V_pairs.mean()
    else:
        mean, covariance, moved = samples.mean(state.mean), kernel, 0.0
        absolute = absolute_moments(state.square, law.uniform_bias)
        negative, zero = (0.5, 0.0) if square > 0 else (0.0, 1.0)
        over_units = 2 * state.k**2 * samples.closure(state) - _UNIFORM * law.uniform_bias**2
        variance = (law.radial * over_units + state.V_pairs).mean()
    claim = EXACT if state.exact else FIRST_ORDER
    return Row(
        mean=mean,
        std=root(square + shift - mean * mean - (covariance + moved) / width),
        second_moment=square + shift,
        abs_mean=samples.mean(absolute[0] + before.shifted(*absolute[1:]) / width),
        negative_fraction=negative,
        zero_fraction=zero,
        unit_mean_std=root(covariance * (1 - 1 / width)),
        sample_correlation=samples.between(kernel, square) / square if square > 0 else np.nan,
        second_moment_spread=root(variance / width),
        second_moment_error=shift * (shift / square) if square > 0 else 0.0,
        claim=claim,
        note=note,
    )


def _at_infinite_width(samples: Population, state: State) -> Row:
    """The row of a tensor whose fluctuations are not followed."""
    square, mean = samples.mean(state.square), samples.mean(state.mean)
    kernel = samples.pair_mean(state.k)
    row = Row(
        mean=mean,
        std=root(square - mean**2),
        second_moment=square,
        sample_correlation=samples.between(kernel, square) / square if square > 0 else np.nan,
        claim=EXACT if state.exact else INFINITE,
        note="",
    )
    if isinstance(state, Activated):
        r = state.response
        row["negative_fraction"], row["zero_fraction"] = map(samples.mean, (r.negative, r.zero))
        row["abs_mean"] = samples.mean(r.absolute)
    return row


def doubt(samples: Population, activation: Activation, state: State) -> str:
    """Words where the first order in 1 / width does not suffice for pre-activations."""
    width, shift = state.width, _shift(samples, state)
    if abs(shift) > _SHIFT:
        r = response(activation, state.square, state.law.uniform_bias)
        chi_q = state.law.sigma_w2 * samples.mean(r.square_1)
        growing = f", growing as chi_q = {chi_q:.3g}" if chi_q > 1 else ""
        percent = f"{shift:.0%}" if abs(shift) <= 1 else "more than its size"
        return (
            f"width {width} shifts q by {percent}{growing}: too large a correction for first-order "
            "theory"
        )
    beta = state.V_pairs.mean() / width / _size(samples, state) ** 2
    if beta > _BETA:
        return (
            f"beta = {beta:.2g}: depth is not small against width, so single networks differ by "
            "large factors, and the typical one lies below the mean"
        )
    return ""


def root(square: float) -> float:
    """The square root; 0 of what only rounding made negative."""
    return float(np.sqrt(max(square, 0.0)))


def _shift(samples: Population, state: State) -> float:
    """What the width adds to the mean q of pre-activations, relative to it."""
    return samples.mean(state.g) / state.width / _size(samples, state)


def _size(samples: Population, state: State) -> float:
    """The mean q, above 0."""
    return max(samples.mean(state.square), math.sqrt(TINY))
