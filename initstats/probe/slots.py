"""The statistics of one tensor of a model, gathered over batches and steps."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from initstats.moments import Moments
from initstats.probe.facts import Facts
from initstats.probe.operations import aside, by_unit
from initstats.probe.readings import MODES, Direction, Mode, Reading
from initstats.probe.spectra import SpectralMoments

if TYPE_CHECKING:
    from initstats.probe.sequences import Layout

POSITIONS, SAMPLE = 2**8, 2**14
"""A sample whose units have fewer entries, or that has fewer in all, is not measured by itself."""
HISTOGRAM_ALL = 2**17
"""Only every eighth entry of a tensor with more entries than this goes into the histogram."""


class Address(NamedTuple):
    """What names a tensor of a model; the same at every pass.

    `call` counts the calls of the module within a pass, `turn` those of the operation within the
    call, `output` the outputs of the operation. A tensor whose number of `units` changes, as the
    scores of sentences of several lengths do, is one tensor for each number.
    """

    name: str
    op: str
    tensor: str
    call: int
    turn: int
    output: int = 0
    units: int = 1


@dataclass
class Slot:
    """Gathers a tensor's statistics over batches, and keeps those of earlier steps.

    Attributes:
        layer: its number in the order of execution.
        inputs: the layers whose values the operation read.
        shape, dtype: those of the tensor when it was first seen.
        axis: dimension of the units.
        spectra: whether the spectrum is measured, too.
        attached: whether a hook waits for its gradient.
        settled: whether the use of weights has said which of their dimensions counts units.
        detached: whether it was made while gradients were disabled.
        derived: whether it is computed of weights alone.
        seen: the directions that were measured at any step.
        current: the statistics of the present step.
        update_ratio: of a weight, rms of its last update over its rms before.
        past: the readings of earlier steps.
        facts: those of the present step, by mode.
        layout: the dimensions of its tokens, as last seen.
    """

    address: Address
    layer: int
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    axis: int
    spectra: bool = False
    attached: bool = False
    detached: bool = False
    settled: bool = False
    derived: bool = False
    seen: set[Direction] = field(default_factory=set)
    current: dict[tuple[Mode, Direction], Moments] = field(default_factory=dict)
    update_ratio: float = math.nan
    past: list[Reading] = field(default_factory=list)
    facts: defaultdict[Mode, Facts] = field(default_factory=lambda: defaultdict(Facts))
    layout: Layout | None = None

    @property
    def units(self) -> int:
        """The number of units."""
        return self.shape[self.axis] if self.shape else 1

    @property
    def is_value(self) -> bool:
        """Whether it is what an operation made of the signal, and no weight."""
        return self.address.tensor != "weight"

    @property
    def entries(self) -> int:
        """The number of entries of a unit in one batch: samples times positions."""
        return math.prod(self.shape) // max(self.units, 1)

    def turn(self, axis: int, x: Tensor, along: int, mode: Mode) -> None:
        """Count units along another dimension, which is dimension `along` of the tensor x."""
        if axis != self.axis and (mode, "backward") not in self.current:
            self.axis = axis
            if self.current.pop((mode, "forward"), None):
                self.add("forward", x, mode, along)

    def add(
        self,
        direction: Direction,
        x: Tensor,
        mode: Mode,
        axis: int | None = None,
        *,
        mask: Tensor | None = None,
    ) -> None:
        """Add a tile of the tensor or of its gradient, on its own device.

        Args:
            axis: dimension of the units in x, where x is the tensor rearranged.
            mask: booleans, (entries of a unit): which of them count; by default all do.
        """
        with aside():
            tiles = tiles_of(plain(x), self.axis if axis is None else axis, mask)
            key = mode, direction
            moments = self.current.get(key) or self._accumulator(direction, tiles)
            for tile in tiles:
                moments.add(0, tile)
            self.current[key] = moments  # not before: what fails leaves no row
            self.seen.add(direction)

    def _accumulator(self, direction: Direction, tiles: Sequence[Tensor]) -> Moments:
        """A new accumulator for tiles (units, entries) like these."""
        rows = tiles[0]
        options: Any = {
            "every": 8 if rows.numel() * len(tiles) > HISTOGRAM_ALL else 1,
            "kernels": "numba" if rows.device.type == "cpu" else "torch",
            "device": rows.device,
        }
        if not self.spectra:
            return Moments(1, rows.shape[0], **options)
        kind = "weight" if self.address.tensor == "weight" else "values"
        return SpectralMoments(rows.shape[0], kind if direction == "forward" else "none", **options)

    def put(self, direction: Direction, x: Tensor, mode: Mode) -> None:
        """Take a tensor instead of what was added before."""
        self.current.pop((mode, direction), None)
        self.add(direction, x, mode)

    def once(self, x: Tensor, mode: Mode) -> None:
        """Measure a weight once a step; in another mode it is the same."""
        for other in MODES:
            if moments := self.current.get((other, "forward")):
                self.current[mode, "forward"] = moments
                return
        self.add("forward", x, mode)

    def close(self, step: int) -> list[Reading]:
        """Keep the present step's readings, which are returned, and begin anew."""
        ended = list(self._present(step))
        self.past += ended
        self.current, self.update_ratio = {}, math.nan
        self.facts = defaultdict(Facts)
        return ended

    def readings(self, step: int) -> Iterator[Reading]:
        """All steps in their order, the present one last."""
        yield from self.past
        yield from self._present(step)

    def _present(self, step: int) -> Iterator[Reading]:
        for mode, direction in sorted(self.current, reverse=True):  # train, and forward, first
            moments, facts = self.current[mode, direction], self.facts[mode]
            yield Reading(step, mode, direction, self.update_ratio, moments, facts)


def tiles_of(x: Tensor, axis: int, mask: Tensor | None) -> Sequence[Tensor]:
    """A tensor as tiles (units, entries): one a sample where the whole would have to be copied.

    Args:
        axis: dimension of the units.
        mask: which of the entries count; by default all do.
    """
    if mask is not None:
        return [by_unit(x, axis)[:, mask.to(x.device)]]
    apart = axis == 1 and x.ndim > 2 and x.is_contiguous() and x.device.type == "cpu"
    positions = math.prod(x.shape[2:])
    if apart and len(x) > 1 and positions >= POSITIONS and positions * x.shape[1] >= SAMPLE:
        return x.flatten(2).unbind()
    return [by_unit(x, axis)]


def plain(x: Tensor) -> Tensor:
    """The entries of a tensor without its history; of a sparse one with all its zeros."""
    x = x.detach() if x.is_floating_point() else x.float()
    return (x if x.layout == torch.strided else x.to_dense()).resolve_neg()
