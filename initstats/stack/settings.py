"""The choices that a run makes once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from initstats.moments import Kernels
from initstats.stack.products import Product, fastest_product

DType = Literal["float32", "float64", "bfloat16"]


@dataclass(frozen=True)
class Settings:
    """The choices of a run: with the cell's key, they determine every bit of its numbers.

    Args:
        depth: number of layers.
        samples: number of samples that stream through.
        backward: whether gradients are measured too.
        dtype: type of weights, samples and everything between. Weights are drawn in float32 and
            cast, so that the networks of all types are the same ones.
        device: where the passes run, as torch spells it; weights are drawn on the CPU.
        tile: entries that a layer makes at once, patches of a convolution included, on average over
            the layers: large enough that a row is worth its visit, small enough that everything
            stays in the processor's cache (2**20 float32 are four megabytes). At most four times as
            many entries of samples are held, and sixteen times as many for the way back.
        kernels: the statistics kernels.
        product: the library that multiplies matrices.
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

    @property
    def thorough(self) -> Settings:
        """The same run; every entry of few samples is binned, for quantiles need them."""
        return replace(self, histogram_every=8 if self.samples >= 1000 else 1)

    def suited(self, seeds: int = 1) -> Settings:
        """The same run, with choices from `tile` on that suit the machine and so many seeds.

        Raises:
            ValueError: torch cannot use the device.
        """
        asked = self.thorough
        if torch.device(self.device).type == "cpu":
            return replace(asked, product=fastest_product() if self.dtype == "float32" else "torch")
        try:
            torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError) as error:  # without CUDA, torch asserts
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"device: {self.device!r} cannot be used here ({reason}); without it, use 'cpu'"
            ) from error
        # seeds share a pass on a GPU, whose kernels would be over too soon for one
        return replace(asked, tile=2**23, kernels="torch", batch=min(seeds, 16))

    @property
    def place(self) -> dict[str, Any]:
        """Device and type of a tensor, as keywords for torch."""
        return {"device": self.device, "dtype": getattr(torch, self.dtype)}
