"""Calls of modules, where the entries of a tensor come from, and the weights among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from initstats.probe.axes import axis_after
from initstats.probe.linear import Sum
from initstats.probe.operations import Operation, is_draw
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
        value: the address of the measured value that it holds, rearranged.
        drawn: of a constant of random numbers, how many there are; 0 of others.
        switch: of a constant that says where a signal is on or off, the address that it has once a
            map reads it as a signal; None of others.
    """

    kind: Literal["signal", "weight", "constant"]
    layers: tuple[int, ...] = ()
    axis: int | None = None
    parameters: tuple[int, ...] = ()
    made_of: tuple[int, ...] = ()
    moved: tuple[int | None, ...] = ()
    slot: Slot | None = None
    pending: Slot | None = None
    value: Address | None = None
    drawn: int = 0
    switch: Address | None = None

    def dimension(self, axis: int) -> int | None:
        """The dimension of what `slot` measures that is dimension `axis` of the tensor now."""
        return self.moved.index(axis) if axis in self.moved else None


def constant(
    call: Call, operation: Operation, x: Tensor, origins: Mapping[Tensor, Origin]
) -> Origin:
    """The origin of what an operation made that is no signal, though it may stem from one.

    Booleans are masks, and so are the numbers made of them, until a linear map reads them: then
    they are what the units of a spiking network, or of a binary one, hand on.
    """
    given = [(y, origins[y]) for y in operation.tensors if y in origins]
    drawn = is_draw(operation.name) or any(origin.drawn for _, origin in given)
    binary = x.dtype == torch.bool or operation.name == "bernoulli"
    found = [(y, o) for y, o in given if o.switch or (binary and o.kind == "signal")]
    if not found:
        return Origin("constant", drawn=x.numel() if drawn else 0)
    layers = tuple(dict.fromkeys(layer for _, o in found for layer in o.layers))
    source, origin = found[0]
    axis = axis_after(operation, x, source, origin.axis)
    return Origin("constant", layers, axis, switch=call.address(operation.name))


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
