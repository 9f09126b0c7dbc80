"""The arguments of an operation, and what theory knows of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from initstats.prediction.model.entries import scattered
from initstats.prediction.model.laws import Laws
from initstats.prediction.model.signals import Given, Signal, State, Weight
from initstats.prediction.model.tables import Draws, Unpredicted
from initstats.probe.elementwise import holed
from initstats.probe.operations import Operation


@dataclass(frozen=True, eq=False)
class Arguments:
    """The arguments of an operation by their names.

    Attributes:
        operation: the call.
        state_of: what is known of a tensor.
        draws: makes columns.
        laws: those of the parameters.
    """

    operation: Operation
    state_of: Callable[[Tensor], State]
    draws: Draws
    laws: Laws

    @property
    def states(self) -> list[State]:
        """What is known of the tensors that are read."""
        return [self.state_of(x) for x in self.operation.read]

    def has(self, *kinds: type[State]) -> bool:
        """Whether there is a tensor of these kinds."""
        return any(isinstance(state, kinds) for state in self.states)

    def value(self, position: int, name: str, default: Any = None) -> Any:
        """An argument as it was given."""
        return self.operation.argument(position, name, default)

    def state(self, position: int, name: str) -> State | None:
        """What is known of an argument; None where it is no tensor."""
        given = self.value(position, name)
        return self.state_of(given) if isinstance(given, Tensor) else None

    def summed(self, position: int, name: str) -> Signal | Given:
        """What is multiplied by weights."""
        state = self.state(position, name)
        if not isinstance(state, Signal | Given):
            raise Unpredicted("a product of weights with weights")
        return state

    def weight(self, position: int, name: str) -> Weight:
        """A parameter."""
        state = self.state(position, name)
        if not isinstance(state, Weight):
            raise Unpredicted("its weights are no parameters")
        return state

    def signal(self, position: int, name: str) -> Signal:
        """A signal."""
        state = self.state(position, name)
        if not isinstance(state, Signal):
            raise Unpredicted("what it reads is no signal")
        return state

    def given(self, position: int, name: str) -> Tensor:
        """A constant, or data."""
        state = self.state(position, name)
        if not isinstance(state, Given):
            raise Unpredicted("what it looks up depends on weights")
        return state.values

    @property
    def holes(self) -> tuple[Any, Any, list[Tensor]]:
        """The arguments with holes, and the tensors that were there."""
        parts: list[Tensor] = []
        kwargs = {key: x for key, x in self.operation.kwargs.items() if key != "out"}
        args = holed(self.operation.args, parts)
        named = tuple(zip(kwargs, holed(tuple(kwargs.values()), parts), strict=True))
        return args, named, parts

    def beside(self, x: Tensor, state: Weight, like: Signal) -> Signal:
        """A parameter beside a signal, whose entries it meets one by one."""
        return scattered(x, self.laws.of_entries(state), like, self.draws)

    def run(self, by: Tensor) -> Any:
        """The operation on another tensor instead of the first that it reads."""
        x = self.operation.read[0]

        def replaced(value: Any) -> Any:
            if value is x:
                return by
            if type(value) in (list, tuple):
                return type(value)(replaced(item) for item in value)
            return value

        kwargs = {key: replaced(value) for key, value in self.operation.kwargs.items()}
        return self.operation.function(*replaced(self.operation.args), **kwargs)
