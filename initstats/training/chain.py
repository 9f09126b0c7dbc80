"""Layers one after the other, in memory that is laid out once: how most networks here are trained.

A bias is one more column of the weight, and a row of ones stands below what the layer gathers: one
product gives pre-activations, and one the gradients of both. What a step does is the same as by
the blocks' own passes, which make their views and memory anew each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from initstats.activations import Activation
from initstats.networks import Activate, Conv, Dense, Linear, Pool, Serial
from initstats.networks.patches import fold_patches, gather_patches


class Layer(Protocol):
    """A layer's weight with its bias as the last column (units, inputs + 1), or their gradients."""

    @property
    def joined(self) -> Tensor:
        """Both."""

    @property
    def matrix(self) -> Tensor:
        """The weight alone."""


def applied(activation: Activation, h: Tensor) -> Tensor:
    """The activation of h, which must stay as it is.

    Raises:
        ValueError: it does not.
    """
    version, a = h._version, activation(h)
    if h._version != version:
        raise ValueError(
            f"activation {activation.name!r} changed its input in place: return a new tensor"
        )
    return a


@dataclass(frozen=True)
class Stage:
    """A layer with weights, and what stands before it.

    Attributes:
        number: of the layer.
        activated: whether an activation stands before it.
        before: the pre-activations of the layer before (units, entries); None for the first layer.
        read: memory for their activation.
        fill: writes from `read` to `patches`; None where that is the same memory.
        patches: what the layer gathers (inputs + 1, entries); the first layer's are the tile's.
        h: pre-activations (units, entries), and `slope` their gradient.
        patch_slope: gradient of the patches (inputs, entries).
        fold: writes from `patch_slope` to `read_slope`; None where that is the same memory.
        read_slope, before_slope: gradients of `read` and of `before`.
    """

    number: int
    activated: bool
    before: Tensor | None
    read: Tensor
    fill: Callable[[], object] | None
    patches: Tensor
    h: Tensor
    slope: Tensor
    patch_slope: Tensor
    fold: Callable[[], object] | None
    read_slope: Tensor
    before_slope: Tensor


class Chain:
    """The memory in which networks of one architecture run, for so many samples at a time."""

    def __init__(self, network: Serial, samples: int) -> None:
        self.samples = samples
        self.stages: list[Stage] = []
        for activated, pool, layer in linked(network) or ():
            self.stages.append(self._stage(layer, activated, pool))
        first = linked(network)
        assert first
        self._first = first[0][2]

    def gathered(self, x: Tensor) -> Tensor:
        """What the first layer reads of a tile, with a row of ones."""
        layer, entries = self._first, self._first.outputs.positions * self.samples
        patches = torch.empty(math.prod(layer.weight[1:]) + 1, entries, dtype=torch.float32)
        patches[-1] = 1
        if isinstance(layer, Conv):
            layer.gather(x, patches[:-1].view(-1))
        else:
            patches[:-1] = layer.gather(x)
        return patches

    def forward(
        self, first: Tensor, activation: Activation, weights: Mapping[int, Layer]
    ) -> Tensor:
        """The outputs (outputs, samples) of a tile, by what `gathered` gave of it."""
        function = activation.out_function
        for stage in self.stages:
            if stage.before is None:
                torch.mm(weights[stage.number].joined, first, out=stage.h)
                continue
            if not stage.activated:
                stage.read.copy_(stage.before)
            elif function is None:
                stage.read.copy_(applied(activation, stage.before))
            else:
                function(stage.before, stage.read)
            if stage.fill:
                stage.fill()
            torch.mm(weights[stage.number].joined, stage.patches, out=stage.h)
        return self.stages[-1].h

    @property
    def slope(self) -> Tensor:
        """Memory for the gradient of the outputs."""
        return self.stages[-1].slope

    def backward(
        self,
        first: Tensor,
        activation: Activation,
        weights: Mapping[int, Layer],
        gradients: Mapping[int, Layer],
        *,
        more: bool,
    ) -> None:
        """From the gradient of the outputs, in `slope`, to those of all weights.

        Args:
            more: whether they are added to what is there.
        """
        function = activation.out_backward
        for stage in reversed(self.stages):
            own = gradients[stage.number].joined
            patches = (first if stage.before is None else stage.patches).T
            if more:
                torch.addmm(own, stage.slope, patches, out=own)
            else:
                torch.mm(stage.slope, patches, out=own)
            if stage.before is None:
                continue
            torch.mm(weights[stage.number].matrix.T, stage.slope, out=stage.patch_slope)
            if stage.fold:
                stage.fold()
            if not stage.activated:
                stage.before_slope.copy_(stage.read_slope)
            elif function is None:
                slopes = activation.derivative(stage.before)
                torch.mul(slopes, stage.read_slope, out=stage.before_slope)
            else:
                function(stage.read_slope, stage.before, stage.before_slope)

    def _stage(self, layer: Linear, activated: bool, pool: Pool | None) -> Stage:
        """The memory of a layer, behind those that are there."""
        inputs, entries = math.prod(layer.weight[1:]), layer.outputs.positions * self.samples
        h, slope = _empty(layer.weight[0], entries), _empty(layer.weight[0], entries)
        if not self.stages:
            none = _empty(0, 0)
            return Stage(
                layer.number, False, None, none, None, none, h, slope, none, None, none, none
            )
        before, before_slope = self.stages[-1].h, self.stages[-1].slope
        patches, patch_slope = _empty(inputs + 1, entries), _empty(inputs, entries)
        patches[-1] = 1
        into = patches[:-1]
        if isinstance(layer, Dense) and not pool:  # an image's positions count as inputs
            read, fill = into.view(before.shape), None
            read_slope, fold = patch_slope.view(before.shape), None
        else:
            read, read_slope = torch.empty_like(before), torch.empty_like(before)
            pair = (read, into, patch_slope, read_slope)
            fill, fold = _pooled(pool, *pair) if pool else _patched(layer, *pair)
        return Stage(
            layer.number,
            activated,
            before,
            read,
            fill,
            patches,
            h,
            slope,
            patch_slope,
            fold,
            read_slope,
            before_slope,
        )


Both = tuple[Callable[[], object], Callable[[], object]]


def _patched(
    layer: Linear, read: Tensor, patches: Tensor, patch_slope: Tensor, read_slope: Tensor
) -> Both:
    """What gathers the patches of a convolution, and what folds their gradients."""
    assert isinstance(layer, Conv)
    shape = (layer.reads.sides, layer.kernel, layer.stride, layer.outputs.sides)
    seen, taps = read.numpy(), patches.numpy()
    tap_slopes, slopes = patch_slope.numpy(), read_slope.numpy()
    return (
        lambda: gather_patches(seen, *shape, taps),
        lambda: fold_patches(tap_slopes, *shape, slopes),
    )


def _pooled(
    pool: Pool, read: Tensor, pooled: Tensor, pooled_slope: Tensor, read_slope: Tensor
) -> Both:
    """What takes the mean over positions, and what shares its gradient out."""
    positions = pool.reads.positions
    by_position = (len(pooled), positions, pooled.shape[1])
    seen, slopes = read.view(by_position), read_slope.view(by_position)
    shared = pooled_slope[:, None].expand(by_position)
    return (
        lambda: torch.mean(seen, 1, out=pooled),
        lambda: torch.div(shared, positions, out=slopes),
    )


def linked(network: Serial) -> list[tuple[bool, Pool | None, Linear]] | None:
    """The layers of a network, each with whether an activation and a pool stand before it.

    None for a network that is no chain of these, or does not end in a layer.
    """
    found: list[tuple[bool, Pool | None, Linear]] = []
    activated, pool = False, None
    for block in network.blocks:
        if isinstance(block, Conv | Dense):
            if pool and not isinstance(block, Dense):
                return None
            found.append((activated, pool, block))
            activated, pool = False, None
        elif isinstance(block, Activate) and found and not (activated or pool):
            activated = True
        elif isinstance(block, Pool) and found and not pool:
            pool = block
        else:
            return None
    return None if activated or pool else found or None


def _empty(units: int, entries: int) -> Tensor:
    return torch.empty(units, entries, dtype=torch.float32)
