"""The tokens of a sequence of which each sees only those before it: no two are alike.

The first token sees itself alone, the last one all, so that lengths and products become others from
place to place. All of them go forward and come back: a matrix, of the tokens that were alike where
the sequence began.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initstats.theory.attention import attend_kernel, pull_kernel
from initstats.theory.exchangeable import ONE_SEQUENCE
from initstats.theory.matrices import Matrices, symmetric
from initstats.theory.state import Attended, Cotangent, Heads, State, Unpredicted

Array = NDArray[np.float64]

_MOST = 256  # tokens
_DRAWS, _ENTRIES = 16, 2**15  # fewest draws of the logits of a layer, and entries of all


class Sequence(Matrices):
    """The tokens of one sequence.

    Args:
        tokens: how many.

    Raises:
        Unpredicted: so many that theory would take minutes.
    """

    same = 1.0

    def __init__(self, tokens: int) -> None:
        if tokens > _MOST:
            raise Unpredicted(
                f"theory without data follows at most {_MOST} tokens that see only those before "
                f"them, not {tokens}: take larger patches"
            )
        super().__init__(1, tokens)
        self.tokens, self.level = tokens, self.own

    def state(self, q: float, c: float) -> State:
        """Tokens of second moment q, each two of correlation c."""
        kernel = q * (c + (1 - c) * self.own[None])
        return State.of_data(self.diagonal(kernel), kernel, self)

    def cotangent(self) -> Cotangent:
        """A unit-normal gradient, every token's own."""
        return Cotangent(np.ones(self.tokens), product=self.own[None].copy(), pairs=self)

    def pair_mean(self, values: Array) -> float:
        """The mean over pairs of different tokens; NaN of one token."""
        others = self.tokens * (self.tokens - 1)
        return float((values * (1 - self.own)).sum()) / others if others else float("nan")

    def attended(self, state: State, heads: Heads) -> Attended:
        """Means of tokens that are weighted by the softmax of logits, over draws of these."""
        k, square = symmetric(state.k), state.square
        found = attend_kernel(k[0], self.tokens, **self._drawn(k, heads))
        behind = State(
            np.diagonal(found.kernel).copy(),
            np.zeros_like(square),
            k=found.kernel[None],
            pairs=self,
            width=state.width,
            exact=False,
        )
        logits = heads.logit_gain * self._seen_by(np.outer(square, square), heads)
        return Attended(behind, logits, found.concentration, np.nan)

    def unattended(self, cotangent: Cotangent, state: State, heads: Heads) -> Cotangent:
        """Through the values, the queries and the keys, over the same draws."""
        assert cotangent.product is not None
        k = symmetric(state.k)
        found = pull_kernel(k[0], cotangent.product[0], self.tokens, **self._drawn(k, heads))
        product = found.total[None]
        return Cotangent(self.diagonal(product), given=False, product=product, pairs=self)

    def batch_normed(self, state: State, batch: int) -> State:
        """Not known."""
        raise Unpredicted(ONE_SEQUENCE)

    def _drawn(self, k: Array, heads: Heads) -> dict[str, Any]:
        """Errors of two layers are not alike."""
        return {
            "logit_gain": heads.logit_gain,
            "value_gain": heads.value_gain,
            "causal": heads.causal,
            "draws": max(_DRAWS, _ENTRIES // self.tokens**2),
            "seed": zlib.crc32(k.tobytes()),
        }

    def _seen_by(self, values: Array, heads: Heads) -> float:
        """The mean over tokens and those that they see."""
        seen = np.tri(self.tokens) if heads.causal else np.ones_like(values)
        return float((values * seen).sum() / seen.sum())
