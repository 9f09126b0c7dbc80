"""The activation in use, as a step of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from initstats.networks.block import Expectation, Leaf, Run, Signal
from initstats.theory.state import Activated, Cotangent, State


@dataclass(frozen=True)
class Activate(Leaf):
    """Applies the activation that the study varies to every entry."""

    tensor: ClassVar[str] = "activation"

    def on(self, inputs: Signal) -> Self:
        """The same block behind a signal that a layer with weights gives."""
        if inputs.layer == 0:
            raise ValueError("an activation needs a layer with weights before it, such as Dense")
        return super().on(inputs)

    @property
    def outputs(self) -> Signal:
        """The signal that is read, now made by an activation."""
        return self.reads._replace(activated=True)

    def forward(self, x: Tensor, at: Run) -> Tensor:
        """phi(x)."""
        at.tape.append(x)
        a = at.activated(x)
        at.emit(self, "forward", a)
        return a

    def backward(self, gradient: Tensor, at: Run, *, inward: bool = True) -> Tensor:
        """phi'(x) times the gradient."""
        at.emit(self, "backward", gradient)
        return at.pulled_back(gradient, at.tape.pop())

    def expect(self, state: State, at: Expectation) -> State:
        """The moments of phi."""
        activated = state.activated(at.activation)
        at.tape.append(activated)
        at.emit(self, activated)
        return activated

    def pull(self, cotangent: Cotangent, at: Expectation, *, inward: bool = True) -> Cotangent:
        """E phi'^2 times the gradient's square."""
        at.emit_gradient(self, cotangent)
        activated = at.tape.pop()
        assert isinstance(activated, Activated)
        return cotangent.unactivated(at.activation, activated)
