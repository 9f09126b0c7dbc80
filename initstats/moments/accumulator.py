"""The accumulator: tiles in, statistics out."""

from __future__ import annotations

from mmap import ACCESS_COPY, mmap
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initstats.moments import kernels_torch
from initstats.moments.table import BINS, FIELDS, STATISTICS, Field, summarize_units
from initstats.registry import unknown

Kernels = Literal["numba", "torch", "off"]


class Moments:
    """Accumulates the statistics of several tensors (slots) that have the same number of units.

    Args:
        slots: number of tensors.
        units: rows of each tensor.
        every: one entry in `every` of each unit goes into the histogram, with that weight.
            Neighbouring units give different entries; the choice does not depend on how the entries
            are split into tiles. All other statistics see all entries.
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
        if kernels == "numba":
            # numba takes half a second to load
            from initstats.moments import kernels_numba, panels

            self._add, self._panels = kernels_numba.add, panels
        self.every = every
        self.kernels = kernels
        self.own = {name: entry.field for name, entry in STATISTICS.items() if entry.field}
        self.fields = (*FIELDS, *self.own)
        starts = {"min": torch.inf, "max": -torch.inf}
        starts |= {name: field.start for name, field in self.own.items()}
        self.units = torch.tensor(
            [starts.get(name, 0.0) for name in self.fields], dtype=torch.float64, device=device
        ).repeat(slots, units, 1)
        if slots == 1:
            self.histogram = torch.zeros(1, BINS, dtype=torch.int64, device=device)
        else:
            # a page fresh from the system takes no memory until it is written; most bins never are
            fresh = mmap(-1, slots * BINS * torch.int64.itemsize, access=ACCESS_COPY)
            self.histogram = torch.frombuffer(fresh, dtype=torch.int64).view(slots, BINS).to(device)
        self._begun = slots > 1

    def add(self, slot: int | slice, x: Tensor) -> None:
        """Add a tile to a slot, or one to each of several. An empty tile changes nothing.

        Args:
            slot: the tensor that the tile belongs to; or a slice of tensors.
            x: (units, entries), one row a unit; for several slots (slots, units, entries). Any
                floating type; half precisions are read as float32.

        Raises:
            ValueError: x has another shape.
            TypeError: x has no floating type.
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
        x = x.detach()
        x = x if x.dtype == torch.float64 else x.float()
        if self.kernels == "numba" and not self.own and self._panels.lies_across(x):
            units, histogram = self.units[slot].numpy(), self.histogram[slot].numpy()
            for part, rows in self._panels.panels(x, self.every):
                self._add(units[part], histogram, rows, self.every)
            return
        x = x.contiguous()
        self._merge_own(slot, {name: _tile(name, of, x) for name, of in self.own.items()})
        if self.kernels == "torch":
            fixed = self.units[slot][..., : len(FIELDS)]
            first, self._begun = not self._begun, True
            kernels_torch.add(fixed, self.histogram[slot], x, self.every, first=first)
            return
        units, histogram, tiles = self.units.numpy(), self.histogram.numpy(), x.numpy()
        for one, tile in zip(slots, tiles, strict=True) if slots else [(slot, tiles)]:
            self._add(units[one], histogram[one], tile, self.every)

    def merge(self, other: Moments) -> None:
        """Add everything that another accumulator of as many slots and units has seen.

        Raises:
            ValueError: the slots or units differ in number, or statistics with a field of their
                own were registered in between.
        """
        if other.units.shape[:2] != self.units.shape[:2]:
            ours, theirs = tuple(self.units.shape[:2]), tuple(other.units.shape[:2])
            raise ValueError(f"(slots, units) {theirs} cannot be merged into {ours}")
        if other.fields != self.fields:
            raise ValueError(f"fields {other.fields} cannot be merged into {self.fields}")
        self._begun = True
        added, fixed = other.units.to(self.units.device), self.units[..., : len(FIELDS)]
        fixed.copy_(kernels_torch.merge(fixed, added[..., : len(FIELDS)]))
        own = enumerate(self.own, len(FIELDS))
        self._merge_own(slice(None), {name: added[..., place] for place, name in own})
        self.histogram += other.histogram.to(self.histogram.device)

    def statistics(self) -> NDArray[np.float64]:
        """(slots, statistics), columns in the order of `STATISTICS`."""
        units, histogram = self.units.cpu().numpy(), self.histogram.cpu().numpy()
        return summarize_units(units, histogram, self.fields)

    def read(self, name: str) -> NDArray[np.float64]:
        """One statistic of every slot, (slots,), by name.

        Raises:
            ValueError: no such statistic.
        """
        if name not in STATISTICS:
            raise unknown("statistic", name, STATISTICS)
        column: NDArray[np.float64] = self.statistics()[:, list(STATISTICS).index(name)]
        return column

    def _merge_own(self, slot: int | slice, added: dict[str, Tensor]) -> None:
        """Merge numbers, ([slots,] units) each, into the statistics' own fields.

        Raises:
            ValueError: they have another shape.
        """
        for place, (name, field) in enumerate(self.own.items(), len(FIELDS)):
            kept = self.units[slot][..., place]
            if added[name].shape != kept.shape:
                raise ValueError(
                    f"the field of statistic {name!r} has shape {tuple(added[name].shape)}, "
                    f"{tuple(kept.shape)} is expected: one number a unit, as x.sum(-1) gives"
                )
            kept.copy_(field.merge(kept, added[name]))


def _tile(name: str, field: Field, x: Tensor) -> Tensor:
    """A statistic's own field of a tile, ([slots,] units).

    Raises:
        ValueError: the field's function fails.
    """
    try:
        return torch.as_tensor(field.of(x))
    except Exception as error:  # whatever a user's function may do
        raise ValueError(
            f"the field of statistic {name!r} cannot be computed: {type(error).__name__}: {error}; "
            f"it is given a tensor of {x.dtype} {tuple(x.shape)}, entries last"
        ) from error


def warm_up() -> None:
    """Compile (or load) the numba kernels now, so that no worker compiles them again."""
    for dtype in (torch.float32, torch.float64):
        Moments(slots=1, units=1).add(0, torch.zeros(1, 1, dtype=dtype))
