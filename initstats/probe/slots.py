"""The statistics of one tensor of a model, gathered over batches and steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initstats.moments import Moments
from initstats.probe.facts import Facts
from initstats.probe.operations import by_unit

Direction = Literal["forward", "backward"]
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


class Reading(NamedTuple):
    """The statistics of a tensor at one step; the histogram's rows are nonempty bins and counts."""

    step: int
    direction: Direction
    statistics: NDArray[np.float64]
    histogram: NDArray[np.int64]
    facts: Facts


@dataclass
class Slot:
    """Gathers a tensor's statistics over batches, and keeps those of earlier steps.

    Attributes:
        layer: its number in the order of execution.
        inputs: the layers whose values the operation read.
        shape, dtype: those of the tensor when it was first seen.
        axis: dimension of the units.
        attached: whether a hook waits for its gradient.
        settled: whether the use of weights has said which of their dimensions counts units.
        detached: whether it was made while gradients were disabled.
        seen: the directions that were measured at any step.
        current: the statistics of the present step.
        facts: those of the present step.
    """

    address: Address
    layer: int
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    axis: int
    attached: bool = False
    detached: bool = False
    settled: bool = False
    seen: set[Direction] = field(default_factory=set)
    current: dict[Direction, Moments] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    _past: list[Reading] = field(default_factory=list)

    @property
    def units(self) -> int:
        """The number of units."""
        return self.shape[self.axis] if self.shape else 1

    @property
    def entries(self) -> int:
        """The number of entries of a unit in one batch: samples times positions."""
        return math.prod(self.shape) // max(self.units, 1)

    def turn(self, axis: int, x: Tensor, along: int) -> None:
        """Count units along another dimension, which is dimension `along` of the tensor x."""
        if axis != self.axis and "backward" not in self.current:
            self.axis = axis
            if self.current.pop("forward", None):
                self.add("forward", x, along)

    def add(self, direction: Direction, x: Tensor, axis: int | None = None) -> None:
        """Add a tile of the tensor or of its gradient, on its own device.

        Args:
            axis: dimension of the units in x, where x is the tensor rearranged.
        """
        with torch._C.DisableTorchFunction(), torch.no_grad():
            rows = by_unit(x.detach().resolve_neg(), self.axis if axis is None else axis)
            if direction not in self.current:
                self.seen.add(direction)
                self.current[direction] = Moments(
                    1,
                    rows.shape[0],
                    every=8 if rows.numel() > HISTOGRAM_ALL else 1,
                    kernels="numba" if rows.device.type == "cpu" else "torch",
                    device=rows.device,
                )
            self.current[direction].add(0, rows)

    def close(self, step: int) -> None:
        """Keep the present step's statistics and begin anew."""
        self._past += self._readings(step)
        self.current, self.facts = {}, Facts()

    def readings(self, step: int) -> Iterator[Reading]:
        """All steps in their order, the present one last."""
        yield from self._past
        yield from self._readings(step)

    def _readings(self, step: int) -> Iterator[Reading]:
        for direction in sorted(self.current, reverse=True):  # forward first
            moments = self.current[direction]
            counts = moments.histogram[0].cpu().numpy()
            bins = np.flatnonzero(counts)
            histogram = np.stack([bins, counts[bins]], axis=1)
            yield Reading(step, direction, moments.statistics()[0], histogram, self.facts)
