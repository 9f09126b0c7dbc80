"""A convolution as a product with gathered patches."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.grad import conv2d_input

from initstats.networks.block import Linear, Signal
from initstats.networks.parameters import check_sizes
from initstats.networks.patches import fold_patches, gather_patches
from initstats.theory.maps import patch_mean
from initstats.theory.state import Cotangent, Law, State, Taps

Index = tuple[Any, ...]
WHOLE = slice(None)


@dataclass(frozen=True)
class Conv(Linear):
    """Square kernels over an image, padded by half a kernel, so that stride 1 keeps the size.

    Attributes:
        channels: number of output channels.
        kernel: side of the patch that a position sees.
        stride: step from one position to the next.

    Raises:
        ValueError: a size is no whole number above 0.
    """

    kind: ClassVar[str] = "convolution"

    channels: int
    kernel: int = 3
    stride: int = 1

    def __post_init__(self) -> None:
        check_sizes("Conv", channels=self.channels, kernel=self.kernel, stride=self.stride)

    def on(self, inputs: Signal) -> Self:
        """The same block behind a signal of images."""
        if inputs.plane is None:
            raise ValueError(
                "a convolution needs images of shape (channels, height, width); what it is given "
                f"has shape ({inputs.units},): use dense layers, such as network 'mlp'"
            )
        return super().on(inputs)

    @cached_property
    def outputs(self) -> Signal:
        """Channels over the plane behind the layer."""
        height, width = (
            (side + 2 * self.padding - self.kernel) // self.stride + 1 for side in self.reads.sides
        )
        return self.reads.multiplied(self.channels, (height, width))

    @property
    def weight(self) -> tuple[int, int, int, int]:
        """(channels, input channels, kernel, kernel)."""
        return self.channels, self.reads.units, self.kernel, self.kernel

    @property
    def padding(self) -> int:
        """Rows of zeros at every side of the plane."""
        return self.kernel // 2

    @property
    def copied(self) -> int:
        """Entries of the patches of one sample."""
        return math.prod(self.weight[1:]) * self.outputs.positions

    def gather(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Patches: ([seeds,] channels x kernel x kernel, positions x samples)."""
        plane = self._plane(x)
        entries = self.outputs.positions * plane.shape[-1]
        shape = (*x.shape[:-2], math.prod(self.weight[1:]), entries)
        out = x.new_empty(shape) if out is None else out[: math.prod(shape)].view(shape)
        if _is_compiled(x):
            gather_patches(self._rows(x), *self._geometry, out.view(-1, entries).numpy())
            return out
        taps = self._by_tap(out)
        for tap, window in self._windows:
            taps[tap] = plane[window]
        for padding in self._paddings:
            taps[padding] = 0
        return out

    def folded(self, columns: Tensor) -> Tensor:
        """Gradients of patches summed to those of the input."""
        samples = columns.shape[-1] // self.outputs.positions
        shape = (*columns.shape[:-2], self.reads.units, self.reads.positions * samples)
        out = columns.new_empty(shape)
        if _is_compiled(columns):
            patches = columns.reshape(-1, columns.shape[-1]).numpy()
            fold_patches(patches, *self._geometry, self._rows(out))
            return out
        taps, plane = self._by_tap(columns), self._plane(out.zero_())
        for tap, window in self._windows:
            plane[window].add_(taps[tap])
        return out

    def seen(self, state: State) -> State:
        """The mean over patches (He et al. 2015, arXiv:1502.01852)."""
        size = {"stride": self.stride, "padding": self.padding}
        read = state.over_positions(
            lambda power: patch_mean(torch.tensor(power), self.kernel, **size).numpy()
        )
        return state.pairs.patched(state, read, self._taps) if state.pairs else read

    def heard(self, cotangent: Cotangent, law: Law) -> Cotangent:
        """A sum over the patches that a position is in."""
        square = torch.tensor(cotangent.square)[:, None]
        size, kernel = self.reads.sides, square.new_ones(1, 1, self.kernel, self.kernel)
        heard = conv2d_input((len(square), 1, *size), kernel, square, self.stride, self.padding)  # type: ignore[no-untyped-call]
        variance = law.sigma_w2 / np.prod(self.weight[1:])
        of_all = (heard[:, 0] * self.channels * variance).numpy()
        if cotangent.pairs:
            return cotangent.pairs.unpatched(cotangent, of_all, self._taps)
        return replace(cotangent, square=of_all)

    @property
    def _taps(self) -> Taps:
        """What theory knows of the layer."""
        return Taps(self.kernel, self.stride, self.padding, self.reads.sides)

    def _plane(self, x: Tensor) -> Tensor:
        """([seeds,] channels, height, width, samples) of an input."""
        return x.view(*x.shape[:-2], self.reads.units, *self.reads.sides, -1)

    def _by_tap(self, columns: Tensor) -> Tensor:
        """([seeds,] channels, kernel, kernel, rows, across, samples) of patches."""
        return columns.view(*columns.shape[:-2], *self.weight[1:], *self.outputs.sides, -1)

    def _rows(self, x: Tensor) -> NDArray[Any]:
        """([seeds x] channels, positions x samples) of an input, for numpy."""
        plane = self._plane(x)
        return plane.reshape(math.prod(plane.shape[:-3]), -1).numpy()

    @cached_property
    def _geometry(self) -> tuple[tuple[int, int], int, int, tuple[int, int]]:
        """What the kernels know of the layer."""
        return self.reads.sides, self.kernel, self.stride, self.outputs.sides

    @cached_property
    def _windows(self) -> list[tuple[Index, Index]]:
        """The parts of the patches where each tap of the kernel sees the plane, and what it sees.

        A tap that sees nothing but padding is left out.
        """
        return [
            ((..., i, j, rows, across, WHOLE), (..., from_rows, from_across, WHOLE))
            for i, (rows, from_rows, _) in enumerate(self._spans(0))
            for j, (across, from_across, _) in enumerate(self._spans(1))
            if rows.start < rows.stop and across.start < across.stop
        ]

    @cached_property
    def _paddings(self) -> list[Index]:
        """The parts of the patches where the taps see padding."""
        return [
            (..., tap, WHOLE, part, *behind)
            for axis, behind in enumerate(((WHOLE, WHOLE), (WHOLE,)))
            for tap, (_, _, unseen) in enumerate(self._spans(axis))
            for part in unseen
        ]

    def _spans(self, axis: int) -> list[tuple[slice, slice, list[slice]]]:
        """Each tap along an axis: the outputs where it sees the plane, the inputs that it sees
        there, and the outputs where it sees padding.
        """
        outputs, inputs = self.outputs.sides[axis], self.reads.sides[axis]
        spans, step = [], self.stride
        for tap in range(self.kernel):
            shift = tap - self.padding
            first = min(max(0, -(shift // step)), outputs)
            stop = max(min(outputs, (inputs - 1 - shift) // step + 1), first)
            window = slice(first * step + shift, (stop - 1) * step + shift + 1, step)
            parts = slice(0, first), slice(stop, outputs)
            unseen = [part for part in parts if part.start < part.stop]
            spans.append((slice(first, stop), window, unseen))
        return spans


def _is_compiled(x: Tensor) -> bool:
    """Whether there are compiled kernels for a tensor."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
