"""The statistics of one tensor of a model, gathered over batches and steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initstats.moments import Moments
from initstats.probe.operations import by_unit

Direction = Literal["forward", "backward"]
HISTOGRAM_ALL = 2**17
"""Of a tensor with more entries than this, every eighth goes into the histogram."""


class Address(NamedTuple):
    """What names a tensor of a model, at every pass alike.

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
    """The statistics of a tensor at one step; the histogram as its nonempty bins and counts."""

    step: int
    direction: Direction
    statistics: NDArray[np.float64]
    bins: NDArray[np.int64]
    counts: NDArray[np.int64]


@dataclass
class Slot:
    """Gathers a tensor's statistics over batches, and keeps those of earlier steps.

    Attributes:
        address: which tensor.
        layer: its number in the order of execution.
        inputs: the layers whose values the operation read.
        shape, dtype: those of the tensor when it was first seen.
        axis: dimension of the units.
        attached: whether its gradient is waited for.
        detached: whether it was made while gradients were disabled.
    """

    address: Address
    layer: int
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    axis: int
    attached: bool = False
    detached: bool = False
    _current: dict[Direction, Moments] = field(default_factory=dict)
    _past: list[Reading] = field(default_factory=list)

    def add(self, direction: Direction, x: Tensor) -> None:
        """Add a tile of the tensor or of its gradient, on its own device."""
        with torch._C.DisableTorchFunction(), torch.no_grad():
            rows = by_unit(x.detach().resolve_neg(), self.axis)
            if direction not in self._current:
                self._current[direction] = Moments(
                    1,
                    rows.shape[0],
                    every=8 if rows.numel() > HISTOGRAM_ALL else 1,
                    kernels="numba" if rows.device.type == "cpu" else "torch",
                    device=rows.device,
                )
            self._current[direction].add(0, rows)

    def has(self, direction: Direction) -> bool:
        """Whether anything was measured in a direction."""
        return direction in self._current or any(r.direction == direction for r in self._past)

    def holds(self, direction: Direction) -> bool:
        """Whether the present step was measured in a direction."""
        return direction in self._current

    def close(self, step: int) -> None:
        """Keep the present step's statistics and begin anew."""
        self._past += self._readings(step)
        self._current = {}

    def readings(self, step: int) -> Iterator[Reading]:
        """All steps in their order, the present one last."""
        yield from self._past
        yield from self._readings(step)

    def _readings(self, step: int) -> Iterator[Reading]:
        for direction in sorted(self._current, reverse=True):  # forward first
            moments = self._current[direction]
            histogram = moments.histogram[0].cpu().numpy()
            bins = np.flatnonzero(histogram)
            yield Reading(step, direction, moments.statistics()[0], bins, histogram[bins])
