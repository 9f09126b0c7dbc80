"""Fully connected stacks: lengths and kernels of a dataset's samples, layer by layer.

Samples differ in length, and lengths go through the maps one by one: averaging them first is a
bias. Over all samples and units, statistics fluctuate with the kernel between samples (its mean is
kappa): pairs drawn at random stand for all pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.data import Split
from initstats.prediction.stage import LEAST, LOST, MOST, Place, Row, Stage, bends
from initstats.theory import Response, correlations, radial_noise, response, unit_noise

Array = NDArray[np.float64]

_TENSORS = ("preactivation", "activation")
_GROUPS = 1024  # samples of nearly one length go together
_PAIRS = 2048
_TINY = 1e-300  # stands for a length of 0 where a correlation is asked for
_NOTHING = 1e-12  # relative length that makes no difference to a mean
_SHIFT, _BETA = 0.1, 0.3  # relative shift, and variance, that a first order is no longer good for
_INDEPENDENT = (
    "gradients count forward and backward weights as independent, and q as at infinite width: off "
    "by O(1 / width)"
)
_UNIFORM = 1.2  # minus the excess kurtosis of a uniform variable


class Inputs:
    """The lengths of a dataset's samples, and the kernel between them.

    Attributes:
        q: |x|^2 / n, (groups,): a mean over samples of nearly one length.
        weights: share of the samples in each group, (groups,).
        pairs: the groups of both samples of each pair, (2, pairs).
        k: x_a . x_b / n of the pairs, (pairs,), were they of their groups' lengths.
        kappa: mean of the kernel over all pairs.
    """

    def __init__(self, split: Split) -> None:
        x = split.x
        features = x.shape[1]
        q = (x.double().square().sum(1) / features).numpy()
        order = np.argsort(q)
        groups = np.array_split(order, min(_GROUPS, len(q)))
        sizes = np.array([len(group) for group in groups])
        self.weights = sizes / len(q)
        self.q = np.array([q[group].mean() for group in groups])
        group_of = np.empty(len(q), dtype=np.int64)
        group_of[order] = np.repeat(np.arange(len(groups)), sizes)
        samples = np.random.default_rng(0).integers(0, len(q), (2, _PAIRS))
        self.pairs = group_of[samples]
        a, b = samples
        k = ((x[a] * x[b]).double().sum(1) / features).numpy()
        stretch = self.q[self.pairs] / np.maximum(q[samples], _TINY)
        self.k = k * np.sqrt(stretch.prod(0))
        self.kappa = float(x.double().mean(0).square().mean())

    def mean(self, values: Array) -> float:
        """Over all samples, of values that are aligned with `q`."""
        return float(self.weights @ values)

    def pair_mean(self, values: Array) -> float:
        """Over all pairs, of values that are aligned with `k`; corrected by what k's mean is."""
        spread = self.k - self.k.mean()
        slope = values @ spread / max(spread @ spread, _TINY)
        return float(values.mean() + slope * (self.kappa - self.k.mean()))

    def products(self, values: Array) -> Array:
        """Of both samples of the pairs, (pairs,), from values that are aligned with `q`."""
        return np.asarray(values[self.pairs].prod(0))


@dataclass(frozen=True)
class _State:
    """A layer's pre-activations; arrays are aligned with `Inputs.q`, or with `Inputs.k`.

    `V` and `g` are variance and shift of q times the width; `k` and `V_pairs` are the kernel, and
    the covariance of the lengths of two samples times the width.
    """

    inputs: Inputs
    activation: Activation
    stage: Stage
    q: Array
    V: Array
    g: Array
    k: Array
    V_pairs: Array

    @property
    def width(self) -> int:
        return self.stage.layer.units

    @cached_property
    def response(self) -> Response:
        return response(self.activation, self.q, self.stage.uniform_bias)

    @property
    def size(self) -> float:
        """Mean q, above 0."""
        return max(self.inputs.mean(self.q), math.sqrt(_TINY))

    @property
    def shift(self) -> float:
        """What the width adds to the mean q, relative to it."""
        return self.inputs.mean(self.g) / self.width / self.size

    @property
    def w(self) -> Array:
        """The Gaussian part of q."""
        return self.q - self.stage.uniform_bias

    @cached_property
    def lengths(self) -> Array:
        """q, above 0."""
        return np.maximum(self.q, _TINY)

    @property
    def closure(self) -> Array:
        """E q_a q_b over E q_a E q_b over draws: what grows with the square of q does so by it."""
        u, v = self.lengths[self.inputs.pairs]
        return np.asarray(1 + self.V_pairs / self.width / u / v)

    @cached_property
    def activations(self) -> tuple[Array, Array]:
        """Of pairs: covariance of phi over units, and width times that of mean phi^2 over draws."""
        r, products = self.response, self.inputs.products
        c = (self.k / products(np.sqrt(self.lengths))).clip(-1, 1)
        like = correlations(self.activation, self.lengths, self.inputs.pairs, c)
        spread = products(np.sqrt(np.maximum(r.square - r.mean**2, 0)))
        noise = products(np.sqrt(np.maximum(unit_noise(r), 0)))
        shared = like.square - (1 - self.stage.radial) * like.radial
        covariance = shared * noise * self.closure + products(r.square_1) * self.V_pairs
        return like.value * spread, covariance

    def shifted(self, slope: Array, curvature: Array) -> Array:
        """Width times the shift of a moment whose derivatives by q are given."""
        kept = (1 - self.stage.radial) * self.w**2  # lengths that do not fluctuate over units
        return slope * self.g + curvature * (self.V / 2 - kept)

    def following(self, stage: Stage) -> _State:
        """The next layer's state."""
        r, covariances = self.response, self.activations
        noise = unit_noise(r) - (1 - self.stage.radial) * radial_noise(r, self.w)
        w2, b2 = stage.sigma_w2, stage.sigma_b2
        return _State(
            self.inputs,
            self.activation,
            stage,
            q=_above(w2 * r.square + b2),
            V=w2**2 * (noise + r.square_1**2 * self.V),
            g=w2 * self.shifted(r.square_1, r.square_2),
            k=w2 * (self.inputs.products(r.mean) + covariances[0]) + b2,
            V_pairs=w2**2 * covariances[1],
        )


def dense_rows(
    inputs: Inputs, activation: Activation, stages: Sequence[Stage], *, backward: bool
) -> dict[Place, Row]:
    """The rows of a fully connected stack, as far as its stages go, or float32 does."""
    rows: dict[Place, Row] = {}
    with np.errstate(over="ignore", invalid="ignore"):  # a signal may leave float64
        states = list(_states(inputs, activation, stages))
        for number, state in enumerate(states, 1):
            unknown = Row(note=_doubt(state)) if abs(state.shift) > 1 else None
            rows[number, "preactivation", "forward"] = unknown or _preactivation(state)
            rows[number, "activation", "forward"] = unknown or _activation(state)
        if backward and len(states) == len(stages):
            return rows | _backward(states)
    lost = ((n + 1, tensor, "backward") for n in range(len(stages)) for tensor in _TENSORS)
    return rows | dict.fromkeys(lost, Row(note=LOST)) if backward else rows


def _states(inputs: Inputs, activation: Activation, stages: Sequence[Stage]) -> Iterator[_State]:
    first, *others = stages
    w2, b2 = first.sigma_w2, first.sigma_b2
    zero, zeros = np.zeros_like(inputs.q), np.zeros_like(inputs.k)
    q, k = w2 * inputs.q + b2, w2 * inputs.k + b2
    state = _State(inputs, activation, first, q, zero, zero, k, zeros)
    yield state
    for stage in others:
        if not LEAST < inputs.mean(state.q) < MOST and state.q.any():
            return
        state = state.following(stage)
        yield state


def _preactivation(state: _State) -> Row:
    inputs, width = state.inputs, state.width
    q, shift = inputs.mean(state.q), inputs.mean(state.g) / width
    kappa = inputs.pair_mean(state.k)
    over_units = 2 * state.k**2 * state.closure - _UNIFORM * state.stage.uniform_bias**2
    variance = (state.stage.radial * over_units + state.V_pairs).mean() / width
    return Row(
        mean=0.0,
        std=_root(q + shift - kappa / width),
        second_moment=q + shift,
        negative_fraction=0.5 if q > 0 else 0.0,
        zero_fraction=0.0 if q > 0 else 1.0,
        unit_mean_std=_root(kappa * (1 - 1 / width)),
        sample_correlation=kappa / q if q > 0 else np.nan,
        second_moment_spread=_root(variance),
        second_moment_error=shift * (shift / q) if q > 0 else 0.0,
        note=_doubt(state),
    )


def _activation(state: _State) -> Row:
    inputs, width, r = state.inputs, state.width, state.response
    mean = inputs.mean(r.mean + state.shifted(r.mean_1, r.mean_2) / width)
    square = inputs.mean(r.square)
    shift = inputs.mean(state.shifted(r.square_1, r.square_2)) / width
    covariance = inputs.pair_mean(state.activations[0])
    mean_variance = (covariance + (inputs.products(r.mean_1) * state.V_pairs).mean()) / width
    kernel = inputs.pair_mean(inputs.products(r.mean) + state.activations[0])
    return Row(
        mean=mean,
        std=_root(square + shift - mean * mean - mean_variance),
        second_moment=square + shift,
        negative_fraction=inputs.mean(r.negative),
        zero_fraction=inputs.mean(r.zero),
        unit_mean_std=_root(covariance * (1 - 1 / width)),
        sample_correlation=kernel / square if square > 0 else np.nan,
        second_moment_spread=_root(state.activations[1].mean() / width),
        second_moment_error=shift * (shift / square) if square > 0 else 0.0,
        note=_doubt(state),
    )


def _backward(states: Sequence[_State]) -> dict[Place, Row]:
    """Squares of gradients, from unit-normal ones of the last activation (Schoenholz 2017)."""
    rows: dict[Place, Row] = {}
    note = _INDEPENDENT if any(bends(state.response, state.q) for state in states) else ""
    square = np.ones_like(states[-1].q)
    for number in range(len(states), 0, -1):
        state = states[number - 1]
        out, fan_in = state.stage.layer.weight
        start = number == len(states)  # where the gradient is the one put in
        rows[number, "activation", "backward"] = _gradient(state, square, "" if start else note)
        square = square * state.response.slope_square
        rows[number, "preactivation", "backward"] = _gradient(state, square, note)
        square = square * state.stage.sigma_w2 * out / fan_in
    return rows


def _gradient(state: _State, square: Array, note: str) -> Row:
    mean = state.inputs.mean(square)
    return Row(mean=0.0, std=_root(mean), second_moment=mean, note=note or _doubt(state))


def _doubt(state: _State) -> str:
    """In words, where the first order in 1 / width does not suffice."""
    inputs, width = state.inputs, state.width
    if abs(state.shift) > _SHIFT:
        chi_q = state.stage.sigma_w2 * inputs.mean(state.response.square_1)
        growing = f", growing as chi_q = {chi_q:.3g}" if chi_q > 1 else ""
        percent = f"{state.shift:.0%}" if abs(state.shift) <= 1 else "more than its size"
        return f"width {width} shifts q by {percent}{growing}: not for a first order to tell"
    beta = state.V_pairs.mean() / width / state.size**2
    if beta > _BETA:
        return (
            f"beta = {beta:.2g} is not small: networks differ by large factors, and the typical "
            "one lies below the mean"
        )
    return ""


def _above(q: Array) -> Array:
    """q, but for what is nothing beside the largest."""
    return np.maximum(q, _NOTHING * np.nanmax(q))


def _root(square: float) -> float:
    return float(np.sqrt(max(square, 0.0)))
