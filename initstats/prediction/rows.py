"""From what theory knows of a tensor to a row of the table."""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.prediction.samples import TINY, Samples
from initstats.theory import Response, State, response
from initstats.theory.state import Activated

Array = NDArray[np.float64]

_SHIFT, _BETA = 0.1, 0.3  # relative shift, and variance, that a first order is no longer good for
_UNIFORM = 1.2  # minus the excess kurtosis of a uniform variable
_BENT = 1e-6  # relative curvature that counts


class Row(TypedDict, total=False):
    """What theory says of one place; what is absent is unknown."""

    mean: float
    std: float
    second_moment: float
    negative_fraction: float
    zero_fraction: float
    unit_mean_std: float
    sample_correlation: float
    second_moment_spread: float
    second_moment_error: float
    note: str


def preactivation_row(samples: Samples, activation: Activation, state: State) -> Row:
    """Pre-activations of samples without positions."""
    if abs(shift_of(samples, state)) > 1:
        return Row(note=doubt(samples, activation, state))
    width, law = state.width, state.law
    q, shift = samples.mean(state.square), samples.mean(state.g) / width
    kappa = samples.pair_mean(state.k)
    over_units = 2 * state.k**2 * samples.closure(state) - _UNIFORM * law.uniform_bias**2
    variance = (law.radial * over_units + state.V_pairs).mean() / width
    return Row(
        mean=0.0,
        std=root(q + shift - kappa / width),
        second_moment=q + shift,
        negative_fraction=0.5 if q > 0 else 0.0,
        zero_fraction=0.0 if q > 0 else 1.0,
        unit_mean_std=root(kappa * (1 - 1 / width)),
        sample_correlation=kappa / q if q > 0 else np.nan,
        second_moment_spread=root(variance),
        second_moment_error=shift * (shift / q) if q > 0 else 0.0,
        note=doubt(samples, activation, state),
    )


def activation_row(samples: Samples, activation: Activation, state: Activated) -> Row:
    """Activations of samples without positions."""
    before, r, width = state.before, state.response, state.width
    if abs(shift_of(samples, before)) > 1:
        return Row(note=doubt(samples, activation, before))
    mean = samples.mean(r.mean + before.shifted(r.mean_1, r.mean_2) / width)
    square, shift = samples.mean(r.square), samples.mean(state.g) / width
    covariance = samples.pair_mean(state.covariance)
    moved = (samples.products(r.mean_1) * before.V_pairs).mean()
    mean_variance = (covariance + moved) / width
    kernel = samples.pair_mean(state.k)
    return Row(
        mean=mean,
        std=root(square + shift - mean * mean - mean_variance),
        second_moment=square + shift,
        negative_fraction=samples.mean(r.negative),
        zero_fraction=samples.mean(r.zero),
        unit_mean_std=root(covariance * (1 - 1 / width)),
        sample_correlation=kernel / square if square > 0 else np.nan,
        second_moment_spread=root(state.V_pairs.mean() / width),
        second_moment_error=shift * (shift / square) if square > 0 else 0.0,
        note=doubt(samples, activation, before),
    )


def shift_of(samples: Samples, state: State) -> float:
    """What the width adds to the mean q of pre-activations, relative to it."""
    return samples.mean(state.g) / state.width / _size(samples, state)


def doubt(samples: Samples, activation: Activation, state: State) -> str:
    """Words where the first order in 1 / width does not suffice for pre-activations."""
    width, shift = state.width, shift_of(samples, state)
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


def bends(r: Response, q: Array) -> bool:
    """Whether G(q) is no straight line, so that a finite width shifts what follows from it."""
    return bool((np.abs(r.square_2) * q**2 > _BENT * r.square).any())


def root(square: float) -> float:
    """The square root; 0 of what only rounding made negative."""
    return float(np.sqrt(max(square, 0.0)))


def _size(samples: Samples, state: State) -> float:
    """Mean q, above 0."""
    return max(samples.mean(state.square), math.sqrt(TINY))
