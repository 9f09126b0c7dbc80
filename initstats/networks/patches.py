"""Patches of a convolution on the CPU, compiled: each entry is read and written once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from initstats.compiling import kernel

Array = NDArray[np.floating]


@kernel(nogil=True)
def gather_patches(
    x: Array,
    sides: tuple[int, int],
    kernel_side: int,
    stride: int,
    outputs: tuple[int, int],
    out: Array,
) -> None:
    """Write what each tap of the kernel sees; padding is 0.

    Args:
        x: (channels, height x width x samples).
        sides: height and width of the plane.
        outputs: rows and columns of positions.
        out: (channels x kernel x kernel, positions x samples).
    """
    (height, width), (rows, across) = sides, outputs
    padding = kernel_side // 2
    samples = x.shape[1] // (height * width)
    for channel in range(x.shape[0]):
        for i in range(kernel_side):
            for j in range(kernel_side):
                tap = (channel * kernel_side + i) * kernel_side + j
                for row in range(rows):
                    y = row * stride + i - padding
                    for column in range(across):
                        z = column * stride + j - padding
                        to = (row * across + column) * samples
                        # an index into a slice is known to lie inside: many are done at once
                        there = out[tap, to : to + samples]
                        if y < 0 or y >= height or z < 0 or z >= width:
                            for n in range(samples):
                                there[n] = 0
                        else:
                            start = (y * width + z) * samples
                            seen = x[channel, start : start + samples]
                            for n in range(samples):
                                there[n] = seen[n]


@kernel(nogil=True)
def fold_patches(
    patches: Array,
    sides: tuple[int, int],
    kernel_side: int,
    stride: int,
    outputs: tuple[int, int],
    out: Array,
) -> None:
    """The transpose of `gather_patches`: for each entry of the input, the taps that saw it, summed
    in their order.
    """
    (height, width), (rows, across) = sides, outputs
    padding = kernel_side // 2
    samples = out.shape[1] // (height * width)
    for channel in range(out.shape[0]):
        for y in range(height):
            for z in range(width):
                to = (y * width + z) * samples
                there = out[channel, to : to + samples]
                for n in range(samples):
                    there[n] = 0
                for i in range(kernel_side):
                    row = y + padding - i
                    if row < 0 or row % stride != 0 or row // stride >= rows:
                        continue
                    for j in range(kernel_side):
                        column = z + padding - j
                        if column < 0 or column % stride != 0 or column // stride >= across:
                            continue
                        start = (row // stride * across + column // stride) * samples
                        tap = (channel * kernel_side + i) * kernel_side + j
                        patch = patches[tap, start : start + samples]
                        for n in range(samples):
                            there[n] += patch[n]
