"""The tokens of a dataset's samples as theory follows them: the products of each two.

Tokens differ in length and in how they agree, so that one correlation does not tell what attention
makes of them. Few samples, spread over the lengths of all, stand for all; they go in twos, since
the logits of two samples come from the same weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.data import Split
from initstats.networks import Linear, Serial
from initstats.theory import Response, State, correlations
from initstats.theory.attention import attend_kernel, pull_kernel
from initstats.theory.pairs import slope_products
from initstats.theory.state import Attended, Cotangent, Heads, Joint, Pairs

Array = NDArray[np.float64]

_TOKENS = 800  # most tokens of all samples
_DRAWS = 16  # of the logits of two samples
_LEAST = 1e-300


class Sequences(Pairs):
    """The tokens of some samples, two samples to a group.

    Arrays over rows are (groups x rows,), those over pairs (groups, rows, rows), a group's rows
    being the tokens of its first sample, then those of its second.

    Args:
        split: the samples of the dataset.
        network: its first product makes tokens of them.

    Attributes:
        tokens: of a sample.
        count: number of the dataset's samples.
        kernel: product moments of what that product reads, over the second moment of all.
    """

    own: Array
    same: Array
    level: Array
    kernel: Array

    def __init__(self, split: Split, network: Serial) -> None:
        first = network.layers[0]
        self.tokens, self.count = first.outputs.positions, len(split)
        lengths = split.x.square().sum(1).double().numpy()
        chosen = _spread(lengths, max(2, _TOKENS // self.tokens // 2 * 2))
        groups = _rows(split, chosen, first).reshape(len(chosen) // 2, 2 * self.tokens, -1)
        fan_in = groups.shape[-1]
        number = 2 * self.tokens
        self.own = np.eye(number, dtype=np.float64)
        self.level = np.tile(np.eye(self.tokens, dtype=np.float64), (2, 2))
        self.same = np.kron(np.eye(2), np.ones((self.tokens, self.tokens))).astype(np.float64)
        kernel = (groups @ groups.swapaxes(1, 2) / fan_in).astype(np.float64)
        # patches cover an image: the mean of their lengths is that of the image's
        size = max(float(self._diagonal(kernel).mean()), _LEAST)
        self.kernel = kernel * (float(lengths.mean()) / self.tokens / fan_in / size)
        upper = np.triu_indices(number)
        self._upper = upper
        starts = np.arange(len(kernel))[:, None] * number
        self._pairs = np.stack([(starts + side).ravel() for side in upper])

    @property
    def state(self) -> State:
        """The data, from which theory starts."""
        return State.of_data(self._diagonal(self.kernel), self.kernel, self)

    @property
    def cotangent(self) -> Cotangent:
        """A unit-normal gradient, every token's own."""
        product = np.broadcast_to(self.own, self.kernel.shape).copy()
        return Cotangent(np.ones(self.kernel.shape[:2]).ravel(), product=product, pairs=self)

    def products(self, values: Array) -> Array:
        """Products of each two rows of a group."""
        by_group = values.reshape(self.kernel.shape[:2])
        return np.asarray(by_group[:, :, None] * by_group[:, None, :])

    def behind(self, activation: Activation, state: State, r: Response) -> Joint:
        """By Hermite series, to three digits."""
        lengths, c = self._seen(state)
        like = self._squared(correlations(activation, lengths, self._pairs, c).value)
        spread = self.products(np.sqrt(np.maximum(r.square - r.mean**2, 0)))
        covariance = like * spread
        k = self.products(r.mean) + covariance
        return Joint(self._with(k, r.square), covariance, np.full_like(k, np.nan))

    def slopes(self, activation: Activation, state: State, r: Response) -> Array:
        """By the slope of those series."""
        lengths, c = self._seen(state)
        found = slope_products(activation, lengths, self._pairs, c, r)
        return self._with(self._squared(found), r.slope_square)

    def attended(self, state: State, heads: Heads) -> Attended:
        """Means of tokens that are weighted by the softmax of logits, over draws of these."""
        found = [
            attend_kernel(k, self.tokens, **_gains(heads), seed=number)
            for number, k in enumerate(self._positive(state.k))
        ]
        k = np.stack([each.kernel for each in found])
        square = self._diagonal(k)
        behind = State(
            square, np.zeros_like(square), k=k, pairs=self, width=state.width, exact=False
        )
        logits = heads.logit_gain * float((self.same[None] * self._outer(state)).sum())
        logits /= float(self.same.sum()) * len(k)
        concentration, entropy = (
            float(np.mean([getattr(each, name) for each in found]))
            for name in ("concentration", "relative_entropy")
        )
        return Attended(behind, logits, concentration, np.nan if heads.causal else entropy)

    def unattended(self, cotangent: Cotangent, state: State, heads: Heads) -> Cotangent:
        """Through the values, the queries and the keys, over the same draws."""
        assert cotangent.product is not None
        pairs = enumerate(zip(self._positive(state.k), cotangent.product, strict=True))
        product = np.stack(
            [
                pull_kernel(k, g, self.tokens, **_gains(heads), seed=number).total
                for number, (k, g) in pairs
            ]
        )
        return Cotangent(self._diagonal(product), given=False, product=product, pairs=self)

    def mean(self, values: Array) -> float:
        """The mean over all tokens."""
        return float(values.mean())

    def pair_mean(self, values: Array) -> float:
        """The mean over all pairs of tokens, most of which are of different samples."""
        within, between = (
            float((values * mask).sum() / mask.sum() / len(values))
            for mask in (self.same, 1 - self.same)
        )
        return within / self.count + between * (1 - 1 / self.count)

    def between(self, kernel: float, square: float) -> float:
        """Mean over pairs of different tokens, given those over all pairs and over tokens."""
        entries = self.count * self.tokens
        return (entries * kernel - square) / (entries - 1) if entries > 1 else np.nan

    def closure(self, state: State) -> Array:
        """Not known."""
        return np.full_like(self.kernel, np.nan)

    def resemblance(self, k: Array, width: int) -> tuple[float, float]:
        """Pair correlation and participation ratio of a sequence's tokens, at a number of units."""
        shape = len(k), 2, self.tokens, 2, self.tokens
        blocks = np.einsum("gasat->gast", k.reshape(shape)).reshape(-1, self.tokens, self.tokens)
        trace = np.trace(blocks, axis1=1, axis2=2)
        square = (blocks**2).sum((1, 2))
        # of Gaussian units, E tr K^2 is larger than that of the mean kernel
        square = square * (1 + 1 / width) + trace**2 / width
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.nanmean(trace**2 / square)
            others = max(self.tokens - 1, 1)
            pairs = (blocks.sum((1, 2)) - trace).sum() / others / trace.sum()
        return float(pairs), float(ratio)

    def _seen(self, state: State) -> tuple[Array, Array]:
        """Lengths of the rows, and correlations of the pairs of which each is there once."""
        lengths = np.maximum(state.square, _LEAST)
        c = state.k / self.products(np.sqrt(lengths))
        return lengths, c[:, *self._upper].ravel().clip(-1, 1)

    def _squared(self, halves: Array) -> Array:
        """Symmetric matrices of their upper halves."""
        found = np.empty_like(self.kernel)
        found[:, *self._upper] = halves.reshape(len(found), -1)
        found[:, *self._upper[::-1]] = halves.reshape(len(found), -1)
        return found

    def _with(self, k: Array, diagonal: Array) -> Array:
        """The matrices with another diagonal."""
        return np.asarray(k * (1 - self.own) + diagonal.reshape(len(k), 1, -1) * self.own)

    def _diagonal(self, k: Array) -> Array:
        diagonal: Array = np.diagonal(k, axis1=1, axis2=2).ravel()
        return diagonal

    def _outer(self, state: State) -> Array:
        return self.products(state.square)

    def _positive(self, k: Array) -> Array:
        """The matrices, whose rounding must not leave them unsymmetric."""
        return np.asarray((k + k.swapaxes(1, 2)) / 2)


def _gains(heads: Heads) -> dict[str, Any]:
    return {
        "logit_gain": heads.logit_gain,
        "value_gain": heads.value_gain,
        "causal": heads.causal,
        "draws": _DRAWS,
    }


def _spread(lengths: Array, number: int) -> NDArray[np.int64]:
    """Samples in a fixed order, of lengths that are spread as those of all are; few come again,
    beside others.
    """
    different = min(number, len(lengths))
    ranks = (np.arange(different) + 0.5) * len(lengths) / different
    chosen = np.argsort(lengths, kind="stable")[ranks.astype(np.int64)]
    orders = np.random.default_rng(0)
    rounds = [orders.permutation(chosen) for _ in range(-(-number // different))]
    return np.concatenate(rounds)[:number]


def _rows(split: Split, chosen: NDArray[np.int64], first: Linear) -> Array:
    """What the first product reads, (tokens of all samples, fan_in), sample by sample."""
    columns = first.gather(split.columns(chosen).double())
    by_sample = columns.reshape(columns.shape[0], first.outputs.positions, -1)
    rows: Array = by_sample.permute(2, 1, 0).reshape(-1, columns.shape[0]).numpy()
    return rows
