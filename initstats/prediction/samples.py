"""A dataset's samples as theory follows them: lengths in groups, and pairs drawn at random.

Samples differ in length, and lengths go through the maps one by one: averaging them first would be
a bias. Statistics over all samples and units fluctuate with the kernel between samples, whose mean
is kappa. Pairs drawn at random stand for all pairs where these are many.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.data import Split
from initstats.theory import Response, State, correlations
from initstats.theory.state import Joint, Pairs

Array = NDArray[np.float64]

_GROUPS = 1024  # most groups of samples of nearly one length
_PAIRS = 2048  # most pairs
TINY = 1e-300
"""Stands for a length of 0 where a correlation is asked for."""


class Samples(Pairs):
    """The lengths of a dataset's samples, and the kernel between them.

    Attributes:
        q: |x|^2 / n, (groups,): a mean over samples of nearly one length.
        weights: share of the samples in each group, (groups,).
        pairs: the groups of both samples of each pair, (2, pairs).
        k: x_a . x_b / n of the pairs, (pairs,), scaled to their groups' lengths.
        means: mean over features, (groups,).
        kappa: mean of the kernel over all pairs, those of a sample with itself among them.
        count: number of samples.
    """

    def __init__(self, split: Split) -> None:
        x = split.x
        features = x.shape[1]
        q = (x.double().square().sum(1) / features).numpy()
        self.count = len(q)
        order = np.argsort(q)
        groups = np.array_split(order, min(_GROUPS, len(q)))
        sizes = np.array([len(group) for group in groups])
        self.weights = sizes / len(q)
        self.q = np.array([q[group].mean() for group in groups])
        group_of = np.empty(len(q), dtype=np.int64)
        group_of[order] = np.repeat(np.arange(len(groups)), sizes)
        if len(q) ** 2 <= _PAIRS:
            samples = np.indices((len(q), len(q))).reshape(2, -1)
        else:
            samples = np.random.default_rng(0).integers(0, len(q), (2, _PAIRS))
        self.pairs = group_of[samples]
        a, b = samples
        k = ((x[a] * x[b]).double().sum(1) / features).numpy()
        stretch = self.q[self.pairs] / np.maximum(q[samples], TINY)
        self.k = k * np.sqrt(stretch.prod(0))
        means = x.double().mean(1).numpy()
        self.means = np.array([means[group].mean() for group in groups])
        self.kappa = float(x.double().mean(0).square().mean())

    @property
    def state(self) -> State:
        """The data, from which theory starts."""
        return State.of_data(self.q, self.k, self, self.means)

    def mean(self, values: Array) -> float:
        """Mean over all samples of values aligned with `q`, or of one for all."""
        return float(self.weights @ values) if values.ndim else float(values)

    def pair_mean(self, values: Array) -> float:
        """Mean over all pairs of values aligned with `k`, as kappa, the mean of k, is known."""
        spread = self.k - self.k.mean()
        slope = values @ spread / max(spread @ spread, TINY)
        return float(values.mean() + slope * (self.kappa - self.k.mean()))

    def between(self, kernel: float, square: float) -> float:
        """Mean over pairs of different samples, given those over all pairs and over samples."""
        if self.count == 1:
            return np.nan
        return (self.count * kernel - square) / (self.count - 1)

    def products(self, values: Array) -> Array:
        """Products of both samples of each pair, (pairs,), of values aligned with `q`."""
        return np.asarray(values[self.pairs].prod(0))

    def closure(self, state: State) -> Array:
        """E q_a q_b over E q_a E q_b, means over draws: a factor of what grows with q squared."""
        u, v = np.maximum(state.square, TINY)[self.pairs]
        return np.asarray(1 + state.V_pairs / state.width / u / v)

    def behind(self, activation: Activation, state: State, r: Response) -> Joint:
        """What an activation makes of the pairs, by Hermite series: three digits."""
        lengths = np.maximum(state.square, TINY)
        c = (state.k / self.products(np.sqrt(lengths))).clip(-1, 1)
        like = correlations(activation, lengths, self.pairs, c)
        spread = self.products(np.sqrt(np.maximum(r.square - r.mean**2, 0)))
        noise = self.products(np.sqrt(np.maximum(r.noise, 0)))
        shared = like.square - (1 - state.law.radial) * like.radial
        V = shared * noise * self.closure(state) + self.products(r.square_1) * state.V_pairs
        covariance = like.value * spread
        return Joint(self.products(r.mean) + covariance, covariance, V)
