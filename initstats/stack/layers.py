"""The layers of the stacks: their geometry, and a convolution as a product with gathered patches.

Tensors are (units, entries), entries being positions x samples with the samples contiguous, so
that a per-unit statistic reads contiguous memory, and a patch is copied a run of samples at a time.
An axis of seeds may stand before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

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

    def patches(self, x: Tensor) -> Tensor:
        """What the weight's rows are multiplied with.

        Args:
            x: the layer's input, ([seeds,] channels, input positions x samples), or what has the
                same entries in the same order.

        Returns:
            ([seeds,] channels x kernel x kernel, positions x samples).
        """
        channels, (height, width) = self.weight[1], self.inputs
        if self.kernel == 1:
            return x
        plane = x.view(*x.shape[:-2], channels, height, width, -1)
        p = self.padding
        padded = self._padded(plane)
        padded[..., p : p + height, p : p + width, :] = plane
        windows = padded.unfold(-3, self.kernel, self.stride).unfold(-3, self.kernel, self.stride)
        # (..., channels, rows, across, samples, kernel, kernel), the kernel's axes to be second
        taps = windows.movedim((-2, -1), (-5, -4))
        return taps.reshape(*x.shape[:-2], channels * self.kernel**2, -1)

    def folded(self, columns: Tensor) -> Tensor:
        """The transpose of `patches`: gradients of the patches summed to those of the input.

        Args:
            columns: ([seeds,] channels x kernel x kernel, positions x samples).

        Returns:
            ([seeds,] channels, input positions x samples).
        """
        channels, (height, width) = self.weight[1], self.inputs
        if self.kernel == 1:
            return columns
        rows, across = self.outputs
        lead = columns.shape[:-2]
        taps = columns.view(*lead, channels, self.kernel, self.kernel, rows, across, -1)
        p = self.padding
        padded = self._padded(taps[..., 0, 0, :, :, :])
        for i in range(self.kernel):
            for j in range(self.kernel):
                bottom, right = i + self.stride * rows, j + self.stride * across
                window = padded[..., i : bottom : self.stride, j : right : self.stride, :]
                window.add_(taps[..., i, j, :, :, :])
        return padded[..., p : p + height, p : p + width, :].reshape(*lead, channels, -1)

    def _padded(self, plane: Tensor) -> Tensor:
        """Zeros for the padded input of a plane ([seeds,] channels, height, width, samples)."""
        *lead, channels, _, _, samples = plane.shape
        height, width = (side + 2 * self.padding for side in self.inputs)
        return plane.new_zeros(*lead, channels, height, width, samples)


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
