"""The boundary between two layers within a residual branch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from initstats.networks.block import Block, Expectation, Leaf, Run, Signal
from initstats.theory.state import Cotangent, State


@dataclass(frozen=True)
class Boundary(Block):
    """What follows belongs to the next layer of the table; nothing is computed."""

    @property
    def outputs(self) -> Signal:
        """The signal that is read, of the next layer."""
        return self.reads._replace(layer=self.reads.layer + 1)

    def leaves(self) -> Iterator[Leaf]:
        """None."""
        return iter(())

    def forward(self, x: Tensor, at: Run) -> Tensor:
        """The input itself."""
        return x

    def backward(self, gradient: Tensor, at: Run, *, inward: bool = True) -> Tensor:
        """The gradient itself."""
        return gradient

    def expect(self, state: State, at: Expectation) -> State:
        """The same."""
        return state

    def pull(self, cotangent: Cotangent, at: Expectation, *, inward: bool = True) -> Cotangent:
        """The same."""
        return cotangent
