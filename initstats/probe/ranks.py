"""Several processes (ranks) that train copies of one model, and one table of what they measured."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from initstats.moments import Moments
from initstats.probe.facts import Facts
from initstats.probe.readings import Direction, Mode, Reading
from initstats.probe.slots import Address, Slot
from initstats.probe.spectra import SpectralMoments, Spectrum


def distributed() -> bool:
    """Whether this process is one of several that train together."""
    group = torch.distributed
    return group.is_available() and group.is_initialized() and group.get_world_size() > 1


def ranks(model: nn.Module) -> int:
    """Over how many processes the gradients are averaged: more than one inside of torch's DDP."""
    if not distributed():
        return 1
    parallel: Any = nn.parallel.DistributedDataParallel
    outer = model if isinstance(model, parallel) else parallel._get_active_ddp_module()
    return 1 if outer is None else int(outer.process_group.size())


def sharded(model: nn.Module) -> str:
    """Words for a model whose parameters are split over processes by FSDP; empty for others."""
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")  # else nothing can have been split
    kinds = [getattr(fsdp, name, ()) for name in ("FullyShardedDataParallel", "FSDPModule")]
    found = [name for name, module in model.named_modules() if isinstance(module, (*kinds,))]
    if not found:
        return ""
    return (
        f"{found[0] or type(model).__name__} is sharded over processes (FSDP), which frees its "
        "weights while it runs: measure the model before it is sharded, or an unsharded copy"
    )


class Part(NamedTuple):
    """What one rank measured of a tensor at a step, in a form that can be sent."""

    step: int
    mode: Mode
    direction: Direction
    update_ratio: float
    units: NDArray[np.float64]
    every: int
    bins: NDArray[np.intp]
    counts: NDArray[np.int64]
    spectrum: Spectrum | None
    facts: Facts

    def reading(self) -> Reading:
        """The part as this rank's own."""
        options: Any = {"every": self.every, "kernels": "torch"}
        if self.spectrum is None:
            moments = Moments(1, self.units.shape[1], **options)
        else:
            moments = SpectralMoments(self.units.shape[1], "none", **options)
            moments.covariance, moments.rank = self.spectrum
        moments.units = torch.from_numpy(self.units)
        moments.histogram[0, self.bins] = torch.from_numpy(self.counts)
        key = self.step, self.mode, self.direction
        return Reading(*key, self.update_ratio, moments, self.facts)


def gather(slots: dict[Address, Slot], group: Any) -> list[Slot]:
    """Merge what all ranks measured, on every rank, into the slots' past.

    Values and their gradients are merged. Weights are the same on every rank, and so are their
    gradients once they are averaged: those of the first rank stand for all.

    Returns:
        Those whose gradients could not be brought together: functions of weights alone.
    """
    own = [(_empty(slot), list(_parts(slot))) for slot in slots.values()]
    every: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(every, own, group)
    merged: dict[Address, dict[tuple[Any, ...], Reading]] = {}
    pairs = [pair for rank in every for pair in rank]
    for slot, _ in pairs:
        slots.setdefault(slot.address, slot)
    for slot, parts in pairs:
        found, weight = merged.setdefault(slot.address, {}), slot.address.tensor == "weight"
        for reading in (part.reading() for part in parts):
            key = reading.step, reading.mode, reading.direction
            first = found.setdefault(key, reading)
            if first.moments and reading.moments and first is not reading and not weight:
                first.moments.merge(reading.moments)
                first.facts.merge(reading.facts)
    return [slots[address] for address, found in merged.items() if _bring(slots[address], found)]


def _empty(slot: Slot) -> Slot:
    """The slot without what it has measured."""
    return replace(slot, current={}, past=[], facts=defaultdict(Facts), layout=None)


def _parts(slot: Slot) -> Iterator[Part]:
    """What can still be merged of a slot: what was gathered before is not."""
    for reading in slot.past:
        if (moments := reading.moments) is not None:
            counts = moments.histogram[0].cpu().numpy()
            bins = np.flatnonzero(counts)
            key = reading.step, reading.mode, reading.direction, reading.update_ratio
            units, facts = moments.units.cpu().numpy(), reading.facts.portable()
            spectrum = moments.spectrum() if isinstance(moments, SpectralMoments) else None
            yield Part(*key, units, moments.every, bins, counts[bins], spectrum, facts)


def _bring(slot: Slot, found: dict[tuple[Any, ...], Reading]) -> bool:
    """Put the merged readings into a slot; whether some had to be left out."""
    lost = slot.derived and any(reading.direction == "backward" for reading in found.values())
    kept: Iterable[Reading] = found.values()
    if lost:
        kept = [reading for reading in kept if reading.direction == "forward"]
    slot.past = [reading for reading in slot.past if reading.moments is None]
    for reading in sorted(kept, key=lambda reading: reading.step):
        reading.reduce()
        slot.past.append(reading)
    return lost
