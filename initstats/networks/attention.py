"""Attention of tokens to the tokens of their sequence (Vaswani et al. 2017, arXiv:1706.03762)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from initstats.moments.tokens import HIDDEN, evenness_of_rows, weights_of
from initstats.networks.block import Block, Direction, Expectation, Leaf, Linear, Run, Signal
from initstats.networks.parameters import check_sizes
from initstats.networks.pointwise import Pointwise
from initstats.networks.tokens import seed_by_seed
from initstats.networks.watched import Watched
from initstats.theory.state import Cotangent, Heads, State, Unpredicted

Logits = Literal["inverse_sqrt", "inverse"]
PROJECTIONS = ("query", "key", "value")
"""The products in front of attention, in the order of their numbers."""
EVENNESS = ("attention_entropy", "concentration")
"""The columns of what is noted about the weights of attention."""


@dataclass(frozen=True)
class Attention(Block):
    """Means of the tokens' values, weighted by a softmax of products of queries and keys.

    The product that follows it in a transformer is no part of it.

    Attributes:
        heads: that share the units.
        causal: whether a token attends to itself and those before it alone.
        logits: how products are scaled: over the root of a head's units, or over their number, as
            muP has it (Yang et al. 2022, arXiv:2203.03466).
        scale: factor of the weights of all three products, as the init draws them.
        value_scale: another one of the values' alone.
        biased: whether the three products have biases.

    Raises:
        ValueError: heads is no whole number above 0; no such scaling.
    """

    heads: int = 1
    causal: bool = False
    logits: Logits = "inverse_sqrt"
    scale: float = 1.0
    value_scale: float = 1.0
    biased: bool = True
    projections: tuple[Linear, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        check_sizes("Attention", heads=self.heads)

    def on(self, inputs: Signal) -> Self:
        """The same block behind a signal whose units the heads can share."""
        if inputs.units % self.heads:
            raise ValueError(
                f"heads: {self.heads} heads do not share {inputs.units} units evenly: choose a "
                "divisor of the width"
            )
        placed: list[Linear] = []
        for name in PROJECTIONS:
            behind = inputs._replace(products=inputs.products + len(placed))
            scale = self.scale * (self.value_scale if name == "value" else 1.0)
            product = Pointwise(inputs.units, tensor="", scale=scale, biased=self.biased)
            placed.append(product.on(behind))
        return replace(self, inputs=inputs, projections=tuple(placed))

    @property
    def outputs(self) -> Signal:
        """As many units and positions as are read."""
        return self.projections[-1].outputs

    @property
    def tau(self) -> float:
        """The factor of products of queries and keys."""
        units = self.reads.units // self.heads
        return 1 / units if self.logits == "inverse" else units**-0.5

    def leaves(self) -> Iterator[Leaf]:
        """The products, then the logits and what softmax makes of them."""
        yield from self.projections
        yield from self._watched

    @property
    def _watched(self) -> tuple[Watched, Watched]:
        """Logits and weights: a unit is a head, a position a pair of tokens."""
        tokens = self.reads.positions
        pairs = self._allowed.sum().item() if self.causal else tokens * tokens
        signal = self.outputs._replace(units=self.heads, plane=(1, int(pairs)))
        return (
            Watched("logits", ordered=self.causal, inputs=signal),
            Watched("attention", EVENNESS, self.causal, inputs=signal),
        )

    @property
    def _allowed(self) -> Tensor:
        """Which token (columns) each token (rows) attends to."""
        return _before(self.reads.positions)

    @property
    def _choices(self) -> Tensor:
        """To how many tokens each token attends."""
        tokens = self.reads.positions
        return self._allowed.sum(-1) if self.causal else torch.full((tokens,), tokens)

    def forward(self, x: Tensor, at: Run) -> Tensor:
        """The weighted means, ([seeds,] units, tokens x samples)."""
        query, key, value = (
            self._by_head(at.applied(projection, x)) for projection in self.projections
        )
        logits = (query @ key.mT).mul_(self.tau)
        self._emit(0, "forward", logits, at)
        if self.causal:
            logits.masked_fill_(~self._allowed.to(x.device), HIDDEN)
        weights, rows = weights_of(logits.sub_(logits.amax(-1, keepdim=True)))
        self._emit(1, "forward", weights, at)
        choices = self._choices.to(weights.device)
        ratios = seed_by_seed(lambda each: evenness_of_rows(each, choices), rows, 4)
        at.note(self._watched[1], "forward", **ratios)
        at.tape += (query, key, value, weights)
        return self._by_unit(weights @ value)

    def backward(self, gradient: Tensor, at: Run, *, inward: bool = True) -> Tensor:
        """The gradient through values, queries and keys."""
        weights, value, key, query = (at.tape.pop() for _ in range(4))
        out = self._by_head(gradient)
        of_weights = out @ value.mT
        self._emit(1, "backward", of_weights, at)
        mean = torch.linalg.vecdot(weights, of_weights)
        of_logits = of_weights.sub_(mean[..., None]).mul_(weights)
        self._emit(0, "backward", of_logits, at)
        of_logits.mul_(self.tau)
        gradients = (of_logits @ key, of_logits.mT @ query, weights.mT @ out)
        query_block, *others = self.projections
        total = at.transposed(query_block, self._by_unit(gradients[0]))
        for block, each in zip(others, gradients[1:], strict=True):
            total = total + at.transposed(block, self._by_unit(each))
        return total

    def expect(self, state: State, at: Expectation) -> State:
        """Means of values, weighted by the softmax of Gaussian logits."""
        if state.pairs is None:
            raise Unpredicted("theory follows attention where it follows pairs of tokens")
        at.tape.append(state)
        found = state.pairs.attended(state, self._heads(at))
        logits, weights = self._watched
        at.emit(logits, State(np.array(found.logits), np.zeros(()), exact=False))
        mean = self.reads.positions / weights.reads.positions  # of the weights that may be above 0
        square = np.array(mean * found.concentration)
        at.emit(weights, State(square, np.array(mean), exact=False))
        one = np.ones(())
        at.note(
            weights,
            attention_entropy=(np.array(found.entropy), one),
            concentration=(np.array(found.concentration), one),
        )
        return found.state

    def pull(self, cotangent: Cotangent, at: Expectation, *, inward: bool = True) -> Cotangent:
        """Through the values, the queries and the keys."""
        before: State = at.tape.pop()
        assert before.pairs is not None
        return before.pairs.unattended(cotangent, before, self._heads(at))

    def _heads(self, at: Expectation) -> Heads:
        """The laws of the products."""
        query, key, value = (at.law(projection) for projection in self.projections)
        if query.sigma_b2 or key.sigma_b2 or value.sigma_b2:
            raise Unpredicted("theory of attention knows products without biases")
        gain = query.sigma_w2 * key.sigma_w2 * self.tau**2 * (self.reads.units // self.heads)
        return Heads(self.reads.positions, gain, value.sigma_w2, self.causal)

    def _emit(self, which: int, direction: Direction, x: Tensor, at: Run) -> None:
        """Measure logits or weights ([seeds,] heads, samples, tokens, tokens)."""
        if self.causal:
            x = x[..., self._allowed.to(x.device)]
        at.emit(self._watched[which], direction, x.flatten(-3 if not self.causal else -2))

    def _by_head(self, x: Tensor) -> Tensor:
        """([seeds,] heads, samples, tokens, units of a head), contiguous."""
        tokens, (units, entries) = self.reads.positions, x.shape[-2:]
        shape = self.heads, units // self.heads, tokens, entries // tokens
        return x.reshape(*x.shape[:-2], *shape).movedim(-1, -3).mT.contiguous()

    def _by_unit(self, x: Tensor) -> Tensor:
        """The inverse of `_by_head`."""
        return x.mT.movedim(-3, -1).flatten(-2).flatten(-3, -2)


@lru_cache(maxsize=8)
def _before(tokens: int) -> Tensor:
    return torch.ones(tokens, tokens, dtype=torch.bool).tril()
