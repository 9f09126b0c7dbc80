"""Streaming statistics of tensors: add tiles in any number, merge in any order, read off the table.

One implementation serves the deep stacks and the probe. `table` says what each statistic means,
`histogram` how values are binned; two sets of kernels keep the same contract, numba on the CPU and
torch anywhere.
"""

from __future__ import annotations

from types import ModuleType
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initstats.moments import kernels_torch
from initstats.moments.table import BINS, FIELDS, STATISTICS, bin_edges, summarize_units

__all__ = ["BINS", "STATISTICS", "Kernels", "Moments", "bin_edges", "warm_up"]

Kernels = Literal["numba", "torch"]


class Moments:
    """Accumulates the statistics of several tensors (slots) that have the same number of units.

    Args:
        slots: how many tensors.
        units: rows of each tensor.
        every: one entry in `every` goes into the histogram, with that weight. All other
            statistics are of all entries.
        kernels: `numba` (CPU, float32 and float64) or `torch` (any device and floating type).
        device: where the tensors are.

    >>> moments = Moments(slots=1, units=2)
    >>> moments.add(0, torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    >>> moments.read("mean"), moments.read("dead_fraction")
    (array([3.5]), array([0.]))
    """

    def __init__(
        self,
        slots: int,
        units: int,
        *,
        every: int = 1,
        kernels: Kernels = "numba",
        device: torch.device | str = "cpu",
    ) -> None:
        self.every = every
        self.kernels = kernels
        self.units = torch.zeros(slots, units, len(FIELDS), dtype=torch.float64, device=device)
        self.units[..., FIELDS.index("min")] = torch.inf
        self.units[..., FIELDS.index("max")] = -torch.inf
        self.histogram = torch.zeros(slots, BINS, dtype=torch.int64, device=device)

    def add(self, slot: int, x: Tensor) -> None:
        """Add a tile: x (units, entries), one row a unit. An empty tile changes nothing."""
        if x.ndim != 2 or x.shape[0] != self.units.shape[1]:
            expected = f"({self.units.shape[1]}, entries)"
            raise ValueError(f"a tile of shape {tuple(x.shape)} was given, {expected} is expected")
        if not x.numel():
            return
        if self.kernels == "numba":
            units, histogram = self.units.numpy()[slot], self.histogram.numpy()[slot]
            _numba().add(units, histogram, x.detach().contiguous().numpy(), self.every)
        else:
            kernels_torch.add(self.units[slot], self.histogram[slot], x.detach(), self.every)

    def merge(self, other: Moments) -> None:
        """Add all that another accumulator of the same shape has seen."""
        self.units.copy_(kernels_torch.merge(self.units, other.units.to(self.units.device)))
        self.histogram += other.histogram.to(self.histogram.device)

    def statistics(self) -> NDArray[np.float64]:
        """(slots, statistics), columns in the order of `STATISTICS`."""
        return summarize_units(self.units.cpu().numpy(), self.histogram.cpu().numpy())

    def read(self, name: str) -> NDArray[np.float64]:
        """One statistic of every slot, by name."""
        column: NDArray[np.float64] = self.statistics()[:, list(STATISTICS).index(name)]
        return column


def warm_up() -> None:
    """Compile (or load) the numba kernels now, so that no worker compiles them again."""
    for dtype in (torch.float32, torch.float64):
        Moments(slots=1, units=1).add(0, torch.zeros(1, 1, dtype=dtype))


def _numba() -> ModuleType:
    """The numba kernels, imported on first use: numba takes half a second to load."""
    from initstats.moments import kernels_numba

    return kernels_numba
