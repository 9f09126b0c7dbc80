"""What stands before the first residual layer: a random linear map of the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from initstats.networks.block import Block, Expectation, Leaf, Run, Signal
from initstats.theory.state import Cotangent, State


@dataclass(frozen=True)
class Stem(Block):
    """Blocks that count as one layer, the part `stem`.

    Attributes:
        block: a block, or several one after the other.
    """

    block: Block

    def on(self, inputs: Signal) -> Self:
        """The block behind the data."""
        inner = inputs._replace(layer=inputs.layer + 1, part="stem", within=True)
        return replace(self, block=self.block.on(inner), inputs=inputs)

    @property
    def outputs(self) -> Signal:
        """What the block gives."""
        return self.block.outputs._replace(within=False)

    @property
    def random(self) -> bool:
        """Whether the block draws masks."""
        return self.block.random

    def leaves(self) -> Iterator[Leaf]:
        """Those of the block."""
        return self.block.leaves()

    def forward(self, x: Tensor, at: Run) -> Tensor:
        """That of the block."""
        return self.block.forward(x, at)

    def backward(self, gradient: Tensor, at: Run, *, inward: bool = True) -> Tensor:
        """That of the block."""
        return self.block.backward(gradient, at, inward=inward)

    def expect(self, state: State, at: Expectation) -> State:
        """That of the block."""
        return self.block.expect(state, at)

    def pull(self, cotangent: Cotangent, at: Expectation, *, inward: bool = True) -> Cotangent:
        """That of the block."""
        return self.block.pull(cotangent, at, inward=inward)
