"""The mean over the positions of an image: what stands before a classifier's last layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from initstats.networks.block import Block, Expectation, Leaf, Run, Signal
from initstats.theory.state import Cotangent, State, Unpredicted


@dataclass(frozen=True)
class Pool(Block):
    """The mean of each unit over its positions (global average pooling)."""

    @property
    def outputs(self) -> Signal:
        """The same units without positions."""
        return self.reads._replace(plane=None)

    def leaves(self) -> Iterator[Leaf]:
        """None: what it gives is part of the next layer's input."""
        return iter(())

    def forward(self, x: Tensor, at: Run) -> Tensor:
        """([seeds,] units, samples) of ([seeds,] units, positions x samples)."""
        return self._by_position(x).mean(-2)

    def backward(self, gradient: Tensor, at: Run, *, inward: bool = True) -> Tensor:
        """Every position hears its share of the gradient."""
        share = (gradient / self.reads.positions).unsqueeze(-2)
        spread = share.expand(*gradient.shape[:-1], self.reads.positions, gradient.shape[-1])
        return spread.reshape(*gradient.shape[:-1], -1)

    def expect(self, state: State, at: Expectation) -> State:
        """Not known: positions agree in part, and the length map does not say in which."""
        raise Unpredicted("theory does not follow a mean over positions")

    def pull(self, cotangent: Cotangent, at: Expectation, *, inward: bool = True) -> Cotangent:
        """Not known, as `expect`."""
        raise Unpredicted("theory does not follow a mean over positions")

    def _by_position(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.reads.positions, -1)
