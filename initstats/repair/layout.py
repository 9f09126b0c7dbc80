"""How the entries of a weight are arranged: as matrices from inputs to units, with a kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Generator, Tensor

from initstats.activations import Activation
from initstats.inits import Init
from initstats.probe.linear import labels
from initstats.probe.operations import Operation

STACK, UNIT, INPUT, KERNEL = range(4)
"""What the entries along a piece of an axis count: matrices, units, inputs, places of a kernel."""
Pieces = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Layout:
    """A weight as a stack of matrices (units, inputs, *kernel).

    Attributes:
        axes: the axes of the weight, each as the pieces that it splits into: what a piece counts,
            and its length.
        blocks: how many matrices of their own the units are split into, as the gates of a
            recurrent layer are.
        fan_in: how many inputs a unit sums on average, where that is not inputs x kernel, as under
            a transposed kernel whose stride does not divide it; else NaN.
    """

    axes: tuple[Pieces, ...]
    blocks: int = 1
    fan_in: float = math.nan

    @property
    def channels(self) -> int:
        """How many biases it takes; units that differ only in their place share one."""
        return math.prod(
            size
            for axis in self.axes
            for kind, size in axis
            if kind in (STACK, UNIT) and KERNEL not in dict(axis)
        )

    @property
    def summed(self) -> float:
        """How many inputs a unit sums."""
        if not math.isnan(self.fan_in):
            return self.fan_in
        return float(math.prod((*self._sizes(INPUT), *self._sizes(KERNEL))))

    def zero_part(self, values: Tensor) -> tuple[Tensor, str]:
        """The units, or inputs, whose weights are all 0 while no other weight is, and their names.

        Returns:
            A mask of the shape of the values, and words such as "16 of 48 units"; both empty where
            there are none, where others are 0, too, as in a sparse draw, or where all are.
        """
        kinds, sizes = self._shared, [size for axis in self.axes for _, size in axis]
        nothing = torch.zeros_like(values, dtype=torch.bool)
        if values.numel() != math.prod(sizes) or not values.any():
            return nothing, ""
        used = (values != 0).reshape(sizes)
        for word, own in (("units", (STACK, UNIT)), ("inputs", (STACK, INPUT))):
            summed = [dim for dim, kind in enumerate(kinds) if kind not in own]
            alive = used.any(summed, keepdim=True) if summed else used
            if (alive == used).all() and (dead := int((~alive).sum())):
                return (~used).reshape(values.shape), f"{dead} of {alive.numel()} {word}"
        return nothing, ""

    def units(self, mask: Tensor) -> Tensor:
        """The units whose weights are all in a mask, in the order of their biases."""
        kinds, sizes = self._shared, [size for axis in self.axes for _, size in axis]
        order = sorted(range(len(sizes)), key=kinds.__getitem__)
        return mask.reshape(sizes).permute(order).reshape(self.channels, -1).all(1)

    @property
    def _shared(self) -> list[int]:
        """What the pieces count, where units that differ only in their place are of the kernel."""
        return [KERNEL if KERNEL in dict(axis) else kind for axis in self.axes for kind, _ in axis]

    def draw(
        self, init: Init, activation: Activation, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """The weight, and the biases of all its units, drawn matrix by matrix."""
        pieces = [piece for axis in self.axes for piece in axis]
        order = sorted(range(len(pieces)), key=lambda index: pieces[index][0])
        values = torch.empty([math.prod(size for _, size in axis) for axis in self.axes])
        spread = values.view([size for _, size in pieces]).permute(order)
        stack, units, inputs = (self._sizes(kind) for kind in (STACK, UNIT, INPUT))
        block = (math.prod(units) // self.blocks, math.prod(inputs), *self._sizes(KERNEL))
        biases = []
        for place in product(*map(range, stack)):
            matrix = spread[place]
            drawn = [self._sample(init, block, generator, activation) for _ in range(self.blocks)]
            matrix.copy_(torch.cat([weight for weight, _ in drawn]).view(matrix.shape))
            biases += [bias for _, bias in drawn]
        return values, torch.cat(biases)

    def _sizes(self, kind: int) -> list[int]:
        return [size for axis in self.axes for of, size in axis if of == kind]

    def _sample(
        self, init: Init, shape: tuple[int, ...], generator: Generator, activation: Activation
    ) -> tuple[Tensor, Tensor]:
        if math.isnan(self.fan_in) or init.orthogonal:
            return init.sample(shape, generator, activation)
        # as many matrices with the right number of inputs as it takes to fill the shape
        matrix, count = (shape[0], max(1, round(self.fan_in))), math.prod(shape)
        drawn = [
            init.sample(matrix, generator, activation)
            for _ in range(-(-count // math.prod(matrix)))
        ]
        entries = torch.cat([weight.flatten() for weight, _ in drawn])
        return entries[:count].view(shape), drawn[0][1]


def layout_of(operation: Operation, weight: Tensor) -> Layout | None:
    """The layout of the weight that a linear operation multiplies with a signal.

    In a product, what a unit sums over are its inputs; what the weight shares with the signal and
    the output counts matrices, and what it alone brings to the output counts units.

    Returns:
        None for an operation of another kind.
    """
    if operation.name.startswith("conv"):
        return _of_convolution(operation, weight)
    if (labelled := labels(operation)) is None:
        return None
    operands, out = labelled
    own = next((given for x, given in operands if x is weight), None)
    if own is None:
        return None
    others = {label for x, given in operands if x is not weight for label in given}
    kinds = [INPUT if k not in out else STACK if k in others else UNIT for k in own]
    return Layout(tuple(((kind, size),) for kind, size in zip(kinds, weight.shape, strict=True)))


def rows_of_gates(weight: Tensor, gates: int) -> Layout:
    """The layout of a matrix (units, inputs) whose units are split into gates."""
    return Layout((((UNIT, weight.shape[0]),), ((INPUT, weight.shape[1]),)), gates)


def _of_convolution(operation: Operation, weight: Tensor) -> Layout:
    """A kernel is (units, inputs, *places); a transposed one (inputs, units, *places).

    Under a stride, a kernel sends each input through only some of its places, and a transposed one
    sums only some of them for each unit: places that each make outputs of their own are units.
    """
    transposed = operation.name.startswith("conv_transpose")
    groups = operation.argument(6, "groups", 1)
    stride = operation.argument(3, "stride", 1)
    dilation = operation.argument(7 if transposed else 5, "dilation", 1)
    first, second = weight.shape[:2]
    outer, inner = (INPUT, UNIT) if transposed else (UNIT, INPUT)
    axes: list[Pieces] = [((STACK, groups), (outer, first // groups)), ((inner, second),)]
    places = weight.shape[2:]
    fan_in = float(first // groups if transposed else second)
    uneven = False
    for axis, places_here in enumerate(places):
        step = stride if isinstance(stride, int) else stride[axis % len(stride)]
        dense = (dilation if isinstance(dilation, int) else dilation[axis % len(dilation)]) == 1
        pieces: Pieces = ((KERNEL, places_here),)
        if not transposed and dense and step >= places_here > 1:
            pieces = ((INPUT, places_here),)
        elif transposed and dense and step > 1 and places_here % step == 0:
            pieces = ((KERNEL, places_here // step), (UNIT, step))
        else:
            uneven |= transposed and step > 1
        fan_in *= places_here / step if transposed else places_here
        axes.append(pieces)
    return Layout(tuple(axes), fan_in=fan_in if uneven else math.nan)
