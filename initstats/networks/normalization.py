"""What all norms have in common as steps of a network."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

from torch import Tensor

from initstats.networks.block import Expectation, Leaf, Run, Signal
from initstats.theory.batch_after import EPS as EPS
from initstats.theory.state import Cotangent, State


@dataclass(frozen=True)
class Normalization(Leaf):
    """Numbers less a mean, over a standard deviation, as before training: gain 1, shift 0.

    Attributes:
        tensor: what the table calls its output.
    """

    tensor: str = field(default="normed", kw_only=True)

    @property
    def outputs(self) -> Signal:
        """The signal that is read, of second moment 1, whatever made it."""
        return self.reads._replace(activated=False)

    @property
    def held(self) -> int:
        """Its output, from which the way back begins."""
        return self.reads.size

    def forward(self, x: Tensor, at: Run) -> Tensor:
        """(x - mean) / std, in memory of its own."""
        y = self.normalized(x, at)
        at.emit(self, "forward", y)
        return y

    def backward(self, gradient: Tensor, at: Run, *, inward: bool = True) -> Tensor:
        """The gradient less what changes only the mean or the size, over the std."""
        at.emit(self, "backward", gradient)
        return self.pulled_back(gradient, at)

    def expect(self, state: State, at: Expectation) -> State:
        """What theory says of the output."""
        normed = self.expected(state, at)
        at.emit(self, normed)
        return normed

    def pull(self, cotangent: Cotangent, at: Expectation, *, inward: bool = True) -> Cotangent:
        """What theory says of the gradient of the input."""
        at.emit_gradient(self, cotangent)
        return self.heard(cotangent, at)

    @abstractmethod
    def normalized(self, x: Tensor, at: Run) -> Tensor:
        """`forward`, not measured."""

    @abstractmethod
    def pulled_back(self, gradient: Tensor, at: Run) -> Tensor:
        """`backward`, not measured."""

    @abstractmethod
    def expected(self, state: State, at: Expectation) -> State:
        """`expect`, not told."""

    @abstractmethod
    def heard(self, cotangent: Cotangent, at: Expectation) -> Cotangent:
        """`pull`, not told."""
