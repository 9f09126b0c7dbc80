"""What a run of a stack chooses once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from initstats.moments import Kernels
from initstats.stack.products import Product, fastest_product

DType = Literal["float32", "float64", "bfloat16"]

SEEDS_AT_ONCE = 16
"""How many seeds share a pass on a GPU, whose kernels would be over too soon for one."""


@dataclass(frozen=True)
class Settings:
    """What a run chooses once: with the cell's key, these determine every bit of its numbers.

    Args:
        depth: number of layers.
        samples: how many samples stream through.
        backward: whether gradients are measured too.
        dtype: of weights, samples and all between. Weights are drawn in float32 and cast, so that
            networks of any type are the same ones.
        device: where the passes run, as torch spells it; weights are drawn on the CPU.
        tile: entries that a layer makes at once, on average over the layers, patches of a
            convolution too: large enough that a row is worth its visit, small enough that all stays
            in the processor's cache (2**20 float32 are four megabytes). Of the samples themselves
            four times as many are held at most, of what is kept to go backward sixteen times.
        kernels: which statistics kernels.
        product: which matrix product.
        histogram_every: one entry in so many goes into the histogram.
        batch: seeds that share a pass: 0 to batch - 1, batch to 2 batch - 1, and so on.
    """

    depth: int
    samples: int
    backward: bool = False
    dtype: DType = "float32"
    device: str = "cpu"
    tile: int = 2**20
    kernels: Kernels = "numba"
    product: Product = "torch"
    histogram_every: int = 8
    batch: int = 1

    @classmethod
    def suited(
        cls,
        depth: int,
        samples: int,
        *,
        backward: bool = False,
        dtype: DType = "float32",
        device: str = "cpu",
        seeds: int = 1,
    ) -> Settings:
        """Settings whose free choices suit the machine and the size of the run.

        Args:
            depth, samples, backward, dtype, device: as they are.
            seeds: how many the run has.

        Raises:
            ValueError: torch cannot use the device.
        """
        # of few samples every entry is binned: it costs nothing, and quantiles need them
        every = 8 if samples >= 1000 else 1
        asked = cls(depth, samples, backward, dtype, device, histogram_every=every)
        if torch.device(device).type == "cpu":
            return replace(asked, product=fastest_product() if dtype == "float32" else "torch")
        _check_usable(device)
        return replace(asked, tile=2**23, kernels="torch", batch=min(seeds, SEEDS_AT_ONCE))

    @property
    def place(self) -> dict[str, Any]:
        """Device and type of a tensor, as keywords for torch."""
        return {"device": self.device, "dtype": getattr(torch, self.dtype)}


def _check_usable(device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts that it has it
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"device: {device!r} cannot be used here ({reason}); without it, use 'cpu'"
        ) from error
