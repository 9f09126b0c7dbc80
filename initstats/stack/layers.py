"""The layers of the stacks: their geometry, and a convolution as a product with gathered patches.

Tensors are (units, entries), entries being positions x samples with the samples contiguous, so
that a per-unit statistic reads contiguous memory, and a patch is copied a run of samples at a time.
An axis of seeds may stand before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor

Index = tuple[Any, ...]
WHOLE = slice(None)

NETWORKS = {
    "mlp": "fully connected: features - width - width ...",
    "cnn": "the lesson's conv net: w, 2w, 4w, 4w channels at stride 2, then stride 1 to the depth",
}
"""The networks by name, with what they are."""


@dataclass(frozen=True)
class Layer:
    """The geometry of a layer: weight (out, in) or (out, in, kernel, kernel) over a plane."""

    weight: tuple[int, ...]
    inputs: tuple[int, int] = (1, 1)
    stride: int = 1

    @property
    def kernel(self) -> int:
        """Side of the patch that a position sees; 1 for a fully connected layer."""
        return self.weight[-1] if len(self.weight) == 4 else 1

    @property
    def padding(self) -> int:
        """Zeros around the plane: half the kernel, so that stride 1 keeps the size."""
        return self.kernel // 2

    @property
    def outputs(self) -> tuple[int, int]:
        """Height and width of the plane behind the layer."""
        height, width = (
            (side + 2 * self.padding - self.kernel) // self.stride + 1 for side in self.inputs
        )
        return height, width

    @property
    def units(self) -> int:
        """Units, or channels of a convolution."""
        return self.weight[0]

    @property
    def positions(self) -> int:
        """Positions of the plane behind the layer; 1 for a fully connected layer."""
        return math.prod(self.outputs)

    @property
    def size(self) -> int:
        """Entries of one sample behind the layer: units x positions."""
        return self.units * self.positions

    @property
    def features(self) -> int:
        """Entries of one sample before the layer: channels x input positions."""
        return self.weight[1] * math.prod(self.inputs)

    @property
    def copied(self) -> int:
        """Entries that `patches` copies of one sample."""
        return math.prod(self.weight[1:]) * self.positions if self.kernel > 1 else 0

    def patches(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """What the weight's rows are multiplied with.

        Args:
            x: the layer's input, ([seeds,] channels, input positions x samples), or what has the
                same entries in the same order.
            out: flat memory for the result, of as many entries or more, whatever it holds.

        Returns:
            ([seeds,] channels x kernel x kernel, positions x samples).
        """
        if self.kernel == 1:
            return x
        plane = self._plane(x)
        entries = self.positions * plane.shape[-1]
        shape = (*x.shape[:-2], math.prod(self.weight[1:]), entries)
        out = x.new_empty(shape) if out is None else out[: math.prod(shape)].view(shape)
        taps, plane = _fast(self._by_tap(out)), _fast(plane)
        for tap, window in self._windows:
            taps[tap] = plane[window]
        for padding in self._paddings:
            taps[padding] = 0
        return out

    def folded(self, columns: Tensor) -> Tensor:
        """The transpose of `patches`: gradients of the patches summed to those of the input.

        Args:
            columns: ([seeds,] channels x kernel x kernel, positions x samples).

        Returns:
            ([seeds,] channels, input positions x samples).
        """
        if self.kernel == 1:
            return columns
        samples = columns.shape[-1] // self.positions
        shape = (*columns.shape[:-2], self.weight[1], math.prod(self.inputs) * samples)
        result = columns.new_zeros(shape)
        taps, plane = self._by_tap(columns), self._plane(result)
        for tap, window in self._windows:
            plane[window].add_(taps[tap])
        return result

    def _plane(self, x: Tensor) -> Tensor:
        """([seeds,] channels, height, width, samples) of an input."""
        return x.view(*x.shape[:-2], self.weight[1], *self.inputs, -1)

    def _by_tap(self, columns: Tensor) -> Tensor:
        """([seeds,] channels, kernel, kernel, rows, across, samples) of patches."""
        return columns.view(*columns.shape[:-2], *self.weight[1:], *self.outputs, -1)

    @cached_property
    def _windows(self) -> list[tuple[Index, Index]]:
        """Of the kernel's taps: where in the patches they see the plane, and what they see of it.

        A tap that sees nothing but padding is left out.
        """
        down, along = self._seen(0), self._seen(1)
        return [
            ((..., i, j, rows, across, WHOLE), (..., from_rows, from_across, WHOLE))
            for (i, (rows, from_rows)), (j, (across, from_across)) in product(
                enumerate(down), enumerate(along)
            )
            if rows.start < rows.stop and across.start < across.stop
        ]

    @cached_property
    def _paddings(self) -> list[Index]:
        """Where in the patches the taps see padding."""
        down, along = (
            [
                (tap, unseen)
                for tap, (seen, _) in enumerate(self._seen(axis))
                for unseen in (slice(0, seen.start), slice(seen.stop, self.outputs[axis]))
                if unseen.start < unseen.stop
            ]
            for axis in (0, 1)
        )
        return [
            *((..., i, WHOLE, rows, WHOLE, WHOLE) for i, rows in down),
            *((..., j, WHOLE, across, WHOLE) for j, across in along),
        ]

    def _seen(self, axis: int) -> list[tuple[slice, slice]]:
        """Of each tap along an axis: the outputs where it sees the plane, and which inputs."""
        seen, step, outputs, inputs = [], self.stride, self.outputs[axis], self.inputs[axis]
        for tap in range(self.kernel):
            shift = tap - self.padding
            first = min(max(0, -(shift // step)), outputs)
            stop = max(min(outputs, (inputs - 1 - shift) // step + 1), first)
            window = slice(first * step + shift, (stop - 1) * step + shift + 1, step)
            seen.append((slice(first, stop), window))
        return seen


def _fast(x: Tensor) -> Any:
    """The same memory as numpy's array, where there is one: it copies in half of torch's time."""
    return x.numpy() if x.device.type == "cpu" and x.dtype != torch.bfloat16 else x


def architecture(network: str, width: int, depth: int, shape: Sequence[int]) -> list[Layer]:
    """The layers of a stack over samples of a shape.

    Args:
        network: a name of `NETWORKS`.
        width: units of every layer of an `mlp`; channels of the first layer of a `cnn`.
        depth: how many layers.
        shape: of one sample; (channels, height, width) or (height, width) for a `cnn`.

    >>> [layer.outputs for layer in architecture("cnn", 8, 5, (1, 28, 28))]
    [(14, 14), (7, 7), (4, 4), (2, 2), (2, 2)]
    """
    if network == "mlp":
        sizes = [math.prod(shape), *[width] * depth]
        return [Layer((out, features)) for features, out in pairwise(sizes)]
    if len(shape) not in (2, 3):
        raise ValueError(
            f"network 'cnn' needs images of shape (channels, height, width); "
            f"the samples have shape {tuple(shape)}: use network 'mlp'"
        )
    channels, inputs = (shape[0] if len(shape) == 3 else 1), (shape[-2], shape[-1])
    layers: list[Layer] = []
    for index in range(depth):
        out, kernel = width * min(2**index, 4), 5 if index == 0 else 3
        layers.append(Layer((out, channels, kernel, kernel), inputs, 2 if index < 4 else 1))
        channels, inputs = out, layers[-1].outputs
    return layers
