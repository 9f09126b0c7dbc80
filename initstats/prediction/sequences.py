"""The tokens of a dataset's samples as theory follows them: the products of each two.

Tokens differ in length and in how they agree, so that one correlation does not tell what attention
makes of them. Few samples, spread over the lengths of all, stand for all; they go in twos, since
the logits of two samples come from the same weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from initstats.data import Split
from initstats.networks import Linear
from initstats.prediction.groups import Groups
from initstats.theory import State
from initstats.theory.attention import attend_kernel, pull_kernel
from initstats.theory.matrices import LEAST, symmetric
from initstats.theory.state import Attended, Cotangent, Heads

Array = NDArray[np.float64]

_TOKENS = 800  # most tokens of all samples
_DRAWS = 16  # of the logits of two samples


class Tokens(Groups):
    """Groups whose rows are the tokens of sequences, one after the other.

    Attributes:
        tokens: of a sequence.
    """

    same: Array
    level: Array
    tokens: int

    def _lay_out(self, tokens: int) -> None:
        """Take note of which rows are of one sequence, and which at one place of theirs."""
        sequences = len(self.own) // tokens
        self.tokens = tokens
        same: Array = np.kron(np.eye(sequences), np.ones((tokens, tokens))).astype(np.float64)
        self.same = same
        self.level = np.tile(np.eye(tokens, dtype=np.float64), (sequences, sequences))

    def attended(self, state: State, heads: Heads) -> Attended:
        """Means of tokens that are weighted by the softmax of logits, over draws of these."""
        found = [
            attend_kernel(k, self.tokens, **_gains(heads), seed=number)
            for number, k in enumerate(symmetric(state.k))
        ]
        k = np.stack([each.kernel for each in found])
        square = self.diagonal(k)
        behind = State(
            square, np.zeros_like(square), k=k, pairs=self, width=state.width, exact=False
        )
        seen = self.same * np.tri(len(self.own)) if heads.causal else self.same
        logits = heads.logit_gain * float((seen * self.products(state.square)).sum())
        logits /= float(seen.sum()) * len(k)
        concentration, entropy = (
            float(np.mean([getattr(each, name) for each in found]))
            for name in ("concentration", "relative_entropy")
        )
        return Attended(behind, logits, concentration, np.nan if heads.causal else entropy)

    def unattended(self, cotangent: Cotangent, state: State, heads: Heads) -> Cotangent:
        """Through the values, the queries and the keys, over the same draws."""
        assert cotangent.product is not None
        pairs = enumerate(zip(symmetric(state.k), cotangent.product, strict=True))
        product = np.stack(
            [
                pull_kernel(k, g, self.tokens, **_gains(heads), seed=number).total
                for number, (k, g) in pairs
            ]
        )
        return Cotangent(self.diagonal(product), given=False, product=product, pairs=self)

    def resemblance(self, k: Array, width: int) -> tuple[float, float]:
        """Pair correlation and participation ratio of a sequence's tokens, at a number of units."""
        sequences = k.shape[1] // self.tokens
        shape = len(k), sequences, self.tokens, sequences, self.tokens
        blocks = np.einsum("gasat->gast", k.reshape(shape)).reshape(-1, self.tokens, self.tokens)
        return resembling(blocks, width)


class Sequences(Tokens):
    """The tokens of some samples, two samples to a group.

    Args:
        split: the samples of the dataset.
        first: the product that makes tokens of them.

    Attributes:
        count: number of the dataset's samples.
    """

    def __init__(self, split: Split, first: Linear) -> None:
        tokens, self.count = first.outputs.positions, len(split)
        lengths = split.x.square().sum(1).double().numpy()
        chosen = _spread(lengths, max(2, _TOKENS // tokens // 2 * 2))
        groups = token_rows(split, chosen, first).reshape(len(chosen) // 2, 2 * tokens, -1)
        super().__init__(token_kernel(groups, lengths, tokens), self.count * tokens)
        self._lay_out(tokens)


def token_kernel(groups: Array, lengths: Array, tokens: int) -> Array:
    """The products of tokens (groups, rows, fan_in), of the mean length that those of all have.

    Patches cover an image: the mean of their lengths is that of the image's.
    """
    fan_in = groups.shape[-1]
    kernel = (groups @ groups.swapaxes(1, 2) / fan_in).astype(np.float64)
    size = max(float(np.trace(kernel, axis1=1, axis2=2).mean()) / kernel.shape[1], LEAST)
    return np.asarray(kernel * (float(lengths.mean()) / tokens / fan_in / size))


def resembling(kernels: Array, width: int) -> tuple[float, float]:
    """Pair correlation and participation ratio that tokens of Gaussian units have on average.

    The ratio is that of the means, E (tr K)^2 / E tr K^2, from 1 to the number of tokens.

    Args:
        kernels: their mean kernel in each of some sequences, (sequences, tokens, tokens).
        width: number of units.
    """
    tokens = kernels.shape[-1]
    trace = np.trace(kernels, axis1=1, axis2=2)
    square = (kernels**2).sum((1, 2))
    # random units make both means larger than their mean kernel has them; with one of them alone,
    # equal tokens would take less than one direction
    several = square * (1 + 1 / width) + trace**2 / width
    one = trace**2 + 2 * square / width
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.nanmean(one / several)
        pairs = (kernels.sum((1, 2)) - trace).sum() / max(tokens - 1, 1) / trace.sum()
    return float(pairs), float(ratio)


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


def token_rows(split: Split, chosen: NDArray[np.int64], first: Linear) -> Array:
    """What the first product reads, (tokens of all samples, fan_in), sample by sample."""
    columns = first.gather(split.columns(chosen).double())
    by_sample = columns.reshape(columns.shape[0], first.outputs.positions, -1)
    rows: Array = by_sample.permute(2, 1, 0).reshape(-1, columns.shape[0]).numpy()
    return rows
