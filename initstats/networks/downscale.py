"""Division by a size that is known before anything runs, in place of a norm.

Normalizer-free residual networks divide by the standard deviation that the stream is expected to
have (Brock et al. 2021, arXiv:2101.08692).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from initstats.networks.block import Expectation, Leaf, Run, Signal
from initstats.theory.state import Cotangent, State


@dataclass(frozen=True)
class Downscale(Leaf):
    """x over a number.

    Attributes:
        size: the number.
        tensor: what the table calls the output.
    """

    size: float
    tensor: str = field(default="normed", kw_only=True)

    @property
    def outputs(self) -> Signal:
        """The signal that is read."""
        return self.reads

    def forward(self, x: Tensor, at: Run) -> Tensor:
        """The quotient."""
        y = x / self.size
        at.emit(self, "forward", y)
        return y

    def backward(self, gradient: Tensor, at: Run, *, inward: bool = True) -> Tensor:
        """The gradient over the same number."""
        at.emit(self, "backward", gradient)
        return gradient / self.size

    def expect(self, state: State, at: Expectation) -> State:
        """Second moments over its square."""
        scaled = state.weighted(1 / self.size)
        at.emit(self, scaled)
        return scaled

    def pull(self, cotangent: Cotangent, at: Expectation, *, inward: bool = True) -> Cotangent:
        """Squares over its square."""
        at.emit_gradient(self, cotangent)
        return cotangent.weighted(1 / self.size)
