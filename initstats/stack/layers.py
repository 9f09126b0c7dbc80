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
            out: what an earlier call returned: written again, if it has the right shape.

        Returns:
            ([seeds,] channels x kernel x kernel, positions x samples).
        """
        if self.kernel == 1:
            return x
        plane = self._plane(x)
        entries = self.positions * plane.shape[-1]
        shape = (*x.shape[:-2], math.prod(self.weight[1:]), entries)
        if out is None or out.shape != shape:
            out = x.new_zeros(shape)  # the padding stays 0: nobody writes there
        taps, plane = _fast(self._by_tap(out)), _fast(plane)
        for tap, window in self._windows:
            taps[tap] = plane[window]
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
        """Of each of the kernel's taps: where in the patches it is, and what it sees of a plane."""

        def along(axis: int) -> list[tuple[int, slice, slice]]:
            """Taps, the outputs where they see the plane and not its padding, and what they see."""
            seen, step, inputs = [], self.stride, self.inputs[axis]
            for tap in range(self.kernel):
                shift = tap - self.padding
                first = max(0, -(shift // step))
                last = min(self.outputs[axis] - 1, (inputs - 1 - shift) // step)
                if first <= last:
                    window = slice(first * step + shift, last * step + shift + 1, step)
                    seen.append((tap, slice(first, last + 1), window))
            return seen

        whole = slice(None)
        return [
            ((..., i, j, rows, across, whole), (..., from_rows, from_across, whole))
            for (i, rows, from_rows), (j, across, from_across) in product(along(0), along(1))
        ]


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
