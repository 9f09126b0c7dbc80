"""Calls of modules, where the entries of a tensor come from, and the weights among them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor, nn

from initstats.probe.axes import axis_after
from initstats.probe.linear import Sum
from initstats.probe.operations import Operation
from initstats.probe.slots import Address, Slot


@dataclass
class Call:
    """A call of a module that is in progress.

    Attributes:
        name: the module's qualified name.
        number: which call of the module within the pass it is, from 1.
        turns: how often each operation ran in it so far.
    """

    module: nn.Module
    name: str
    number: int
    turns: Counter[str] = field(default_factory=Counter)

    def address(self, op: str, tensor: str = "activation") -> Address:
        """The address of an operation's first output, at the next turn of the operation."""
        self.turns[op] += 1
        return Address(self.name, op, tensor, self.number, self.turns[op] - 1)


class Origin(NamedTuple):
    """Where the entries of a tensor come from.

    Attributes:
        kind: `signal` where the input reaches it, `weight` where only parameters do, `constant`
            where neither does.
        layers: the measured values that it holds or, if it was not measured, was made of.
        axis: dimension of its units; None: the last.
        parameters: ids of the parameters whose entries it holds, rearranged.
        made_of: ids of the parameters that weights were computed of.
        moved: the dimension that each dimension of what is measured in `slot` has become.
        slot: the measured weights, or shares of 1, that it holds, rearranged.
        pending: the slot of its gradient, until autograd knows the tensor.
        drawn: of a constant of random numbers, how many there are; 0 of others.
    """

    kind: Literal["signal", "weight", "constant"]
    layers: tuple[int, ...] = ()
    axis: int | None = None
    parameters: tuple[int, ...] = ()
    made_of: tuple[int, ...] = ()
    moved: tuple[int | None, ...] = ()
    slot: Slot | None = None
    pending: Slot | None = None
    drawn: int = 0

    def dimension(self, axis: int) -> int | None:
        """The dimension of what `slot` measures that is dimension `axis` of the tensor now."""
        return self.moved.index(axis) if axis in self.moved else None


class Use(NamedTuple):
    """Weights that an operation sums with."""

    operand: Tensor
    origin: Origin
    sum: Sum


def axes_of(
    operation: Operation, made: list[Tensor], uses: list[Use], source: Tensor, axis: int | None
) -> list[int | None]:
    """The dimension of the units in each output: what the weights make, or what the source has."""
    if uses and (found := uses[0].sum.made) is not None:
        return [found] * len(made)
    return [axis_after(operation, x, source, axis) for x in made]


def same_units(out: Tensor, to: int | None, source: Tensor, axis: int | None) -> bool:
    """Whether the units of the output are those of the source."""
    if to is None or axis is None or not -out.ndim <= to < out.ndim or axis >= source.ndim:
        return False
    return out.shape[to] == source.shape[axis]


def uses_of(summed: list[Sum], given: list[Tensor], origins: list[Origin]) -> list[Use]:
    """The sums whose operand comes from parameters; what was looked up counts if nothing else."""
    found = [
        Use(x, origin, each)
        for x, origin in zip(given, origins, strict=True)
        for each in summed
        if each.weight is x and (origin.kind == "weight" or origin.made_of)
    ]
    weights = [use for use in found if use.origin.kind == "weight"]
    return weights or found
