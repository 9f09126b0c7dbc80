"""A network: blocks one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Self

from torch import Tensor

from initstats.networks.activate import Activate
from initstats.networks.block import Block, Expectation, Leaf, Linear, Place, Run, Signal
from initstats.theory.state import Cotangent, State


@dataclass(frozen=True, init=False)
class Serial(Block):
    """Blocks one after the other.

    Attributes:
        blocks: the blocks in the order in which they run.

    >>> from initstats.networks import Activate, Dense
    >>> network = Serial(Dense(50), Activate(), Dense(10)).on(Signal(784))
    >>> [leaf.tensor for leaf in network.leaves()], network.outputs.units
    (['preactivation', 'activation', 'preactivation'], 10)
    """

    blocks: tuple[Block, ...]

    def __init__(self, *blocks: Block, inputs: Signal | None = None) -> None:
        object.__setattr__(self, "blocks", blocks)
        object.__setattr__(self, "inputs", inputs)

    def on(self, inputs: Signal) -> Self:
        """Each block behind the one before it."""
        placed: list[Block] = []
        for block in self.blocks:
            placed.append(block.on(placed[-1].outputs if placed else inputs))
        return type(self)(*placed, inputs=inputs)

    @property
    def outputs(self) -> Signal:
        """The signal that the last block gives."""
        return self.blocks[-1].outputs if self.blocks else self.reads

    @property
    def random(self) -> bool:
        """Whether one of the blocks draws masks."""
        return any(block.random for block in self.blocks)

    def leaves(self) -> Iterator[Leaf]:
        """The leaves of every block."""
        for block in self.blocks:
            yield from block.leaves()

    def forward(self, x: Tensor, at: Run) -> Tensor:
        """The output of the last block, each reading that of the one before."""
        for block in self.blocks:
            x = block.forward(x, at)
        return x

    def backward(self, gradient: Tensor, at: Run, *, inward: bool = True) -> Tensor:
        """The gradient of the input, taken from the last block to the first."""
        for block in reversed(self.blocks):
            further = inward or block is not self.blocks[0]
            gradient = block.backward(gradient, at, inward=further)
        return gradient

    def expect(self, state: State, at: Expectation) -> State:
        """The output of the last block, each reading that of the one before."""
        for block in self.blocks:
            state = block.expect(state, at)
        return state

    def pull(self, cotangent: Cotangent, at: Expectation, *, inward: bool = True) -> Cotangent:
        """The gradient of the input, taken from the last block to the first."""
        for block in reversed(self.blocks):
            further = inward or block is not self.blocks[0]
            cotangent = block.pull(cotangent, at, inward=further)
        return cotangent

    @property
    def layers(self) -> list[Linear]:
        """The layers with weights, in the order in which they run."""
        return [leaf for leaf in self.leaves() if isinstance(leaf, Linear)]

    def places(self, *, backward: bool) -> list[Place]:
        """The places of the table's rows, in their order: layer by layer, forward first."""
        directions = ("forward", "backward") if backward else ("forward",)
        leaves = [leaf for leaf in self.leaves() if leaf.tensor]
        places = [(leaf.layer, leaf.tensor, to) for to in directions for leaf in leaves]
        return sorted(places, key=itemgetter(0))

    @property
    def numbers(self) -> tuple[str, ...]:
        """Columns of what its leaves note."""
        return tuple(dict.fromkeys(name for leaf in self.leaves() for name in leaf.numbers))

    @property
    def parts(self) -> list[str]:
        """The kind of each layer, from the first: that of its part, or of its product."""
        kinds = {layer.layer: layer.kind for layer in self.layers}
        kinds |= {leaf.layer: leaf.outputs.part for leaf in self.leaves() if leaf.outputs.part}
        return [kinds[layer] for layer in range(1, max(kinds, default=0) + 1)]

    def split(self) -> tuple[Serial, Serial]:
        """The blocks before the first activation, which it does not change, and all others."""
        curved = [any(isinstance(leaf, Activate) for leaf in b.leaves()) for b in self.blocks]
        first = curved.index(True) if True in curved else len(self.blocks)
        head = Serial(*self.blocks[:first], inputs=self.inputs)
        return head, Serial(*self.blocks[first:], inputs=head.outputs)
