"""The accumulator: tiles in, statistics out."""

from __future__ import annotations

from functools import cache
from mmap import ACCESS_COPY, mmap
from types import ModuleType
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initstats.moments import kernels_torch
from initstats.moments.table import BINS, FIELDS, STATISTICS, summarize_units
from initstats.registry import unknown

Kernels = Literal["numba", "torch", "off"]


class Moments:
    """Accumulates the statistics of several tensors (slots) that have the same number of units.

    Args:
        slots: how many tensors.
        units: rows of each tensor.
        every: of each unit one entry in `every` goes into the histogram, with that weight,
            neighbouring units taking different entries; how entries come in tiles is of no
            matter. All other statistics are of all entries.
        kernels: `numba` (CPU), `torch` (any device), or `off`, which measures nothing.
        device: where the tensors are.

    Raises:
        ValueError: a size below 1, unknown kernels, or numba off the CPU.

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
        for name, size in (("slots", slots), ("units", units), ("every", every)):
            if size < 1:
                raise ValueError(f"{name}={size} was given, 1 or more is expected")
        if kernels not in get_args(Kernels):
            raise unknown("kernels", kernels, get_args(Kernels))
        if kernels == "numba" and torch.device(device).type != "cpu":
            raise ValueError(f"numba kernels run on the CPU, not on {device}: use kernels='torch'")
        self.every = every
        self.kernels = kernels
        self.units = torch.zeros(slots, units, len(FIELDS), dtype=torch.float64, device=device)
        self.units[..., FIELDS.index("min")] = torch.inf
        self.units[..., FIELDS.index("max")] = -torch.inf
        # fresh from the system, a page takes memory once it is written, and most bins never are
        fresh = mmap(-1, slots * BINS * torch.int64.itemsize, access=ACCESS_COPY)
        self.histogram = torch.frombuffer(fresh, dtype=torch.int64).view(slots, BINS).to(device)

    def add(self, slot: int | slice, x: Tensor) -> None:
        """Add a tile to a slot, or one to each of several. An empty tile changes nothing.

        Args:
            slot: which tensor the tile belongs to; or a slice of them.
            x: (units, entries), one row a unit; for several slots (slots, units, entries). Any
                floating type, half precisions are read as float32.

        Raises:
            ValueError: another shape.
            TypeError: not a floating type.
        """
        slots = range(len(self.units))[slot] if isinstance(slot, slice) else None
        axes = (self.units.shape[1],) if slots is None else (len(slots), self.units.shape[1])
        if x.shape[:-1] != axes:
            expected = f"({', '.join(map(str, axes))}, entries)"
            raise ValueError(f"a tile of shape {tuple(x.shape)} was given, {expected} is expected")
        if not x.is_floating_point():
            raise TypeError(f"a tile of {x.dtype} was given, floats are expected: add x.float()")
        if not x.numel() or self.kernels == "off":
            return
        x = x.detach().contiguous()
        x = x if x.dtype == torch.float64 else x.float()
        if self.kernels == "torch":
            kernels_torch.add(self.units[slot], self.histogram[slot], x, self.every)
        elif slots is not None:
            for one, tile in zip(slots, x, strict=True):
                self.add(one, tile)
        else:
            units, histogram = self.units.numpy()[slot], self.histogram.numpy()[slot]
            _numba().add(units, histogram, x.numpy(), self.every)

    def merge(self, other: Moments) -> None:
        """Add all that another accumulator of as many slots and units has seen.

        Raises:
            ValueError: the slots or units differ in number.
        """
        if other.units.shape != self.units.shape:
            ours, theirs = tuple(self.units.shape[:2]), tuple(other.units.shape[:2])
            raise ValueError(f"(slots, units) {theirs} cannot be merged into {ours}")
        self.units.copy_(kernels_torch.merge(self.units, other.units.to(self.units.device)))
        self.histogram += other.histogram.to(self.histogram.device)

    def statistics(self) -> NDArray[np.float64]:
        """(slots, statistics), columns in the order of `STATISTICS`."""
        return summarize_units(self.units.cpu().numpy(), self.histogram.cpu().numpy())

    def read(self, name: str) -> NDArray[np.float64]:
        """One statistic of every slot, (slots,), by name.

        Raises:
            ValueError: no such statistic.
        """
        if name not in STATISTICS:
            raise unknown("statistic", name, STATISTICS)
        column: NDArray[np.float64] = self.statistics()[:, list(STATISTICS).index(name)]
        return column


def warm_up() -> None:
    """Compile (or load) the numba kernels now, so that no worker compiles them again."""
    for dtype in (torch.float32, torch.float64):
        Moments(slots=1, units=1).add(0, torch.zeros(1, 1, dtype=dtype))


@cache
def _numba() -> ModuleType:
    """The numba kernels, imported on first use: numba takes half a second to load."""
    from initstats.moments import kernels_numba

    return kernels_numba
