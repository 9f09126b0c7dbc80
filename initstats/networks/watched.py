"""A tensor that a block makes on its way, and that the table has rows of."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from initstats.networks.block import Expectation, Leaf, Run, Signal
from initstats.theory.state import Cotangent, State


@dataclass(frozen=True)
class Watched(Leaf):
    """Passes a tensor on, and measures it.

    Attributes:
        tensor: what the table calls it.
        numbers: columns of what the block that makes it notes about it.
        ordered: whether a token has no part in that of tokens before it.
    """

    tensor: str = ""
    numbers: tuple[str, ...] = ()
    ordered: bool = False

    @property
    def outputs(self) -> Signal:
        """The signal that is read."""
        return self.reads

    @property
    def held(self) -> int:
        """The tensor, which the way back needs."""
        return self.reads.size

    def forward(self, x: Tensor, at: Run) -> Tensor:
        """The tensor."""
        at.emit(self, "forward", x)
        return x

    def backward(self, gradient: Tensor, at: Run, *, inward: bool = True) -> Tensor:
        """Its gradient."""
        at.emit(self, "backward", gradient)
        return gradient

    def expect(self, state: State, at: Expectation) -> State:
        """What theory says of it."""
        at.emit(self, state)
        return state

    def pull(self, cotangent: Cotangent, at: Expectation, *, inward: bool = True) -> Cotangent:
        """What theory says of its gradient."""
        at.emit_gradient(self, cotangent)
        return cotangent
