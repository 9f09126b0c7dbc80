"""What was measured of tensors at one step: accumulators, and the numbers that they give."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from initstats.moments import Moments
from initstats.moments.table import summarize_units
from initstats.probe.facts import Facts

Direction = Literal["forward", "backward"]
Mode = Literal["train", "eval"]
MODES = get_args(Mode)
Numbers = tuple[NDArray[np.float64], NDArray[np.uint16], NDArray[np.unsignedinteger[Any]]]
"""Statistics, (statistics,), the bins that are not empty, and their counts, (bins,) each.

They are what a long training keeps of each tensor and step, and take as few bytes as they can.
"""


@dataclass
class Reading:
    """What was measured of a tensor, or of its gradient, at one step and in one mode of the model.

    Attributes:
        update_ratio: of a weight, the size of its last update; NaN of other tensors.
        moments: the accumulator, until only its numbers are kept.
    """

    step: int
    mode: Mode
    direction: Direction
    update_ratio: float
    moments: Moments | None
    facts: Facts
    _numbers: Numbers | None = None

    @property
    def statistics(self) -> NDArray[np.float64]:
        """(statistics,), in the order of the table.

        Raises:
            ValueError: a registered statistic fails.
        """
        return self._read()[0]

    @property
    def histogram(self) -> NDArray[np.int64]:
        """(bins, 2): the bins that are not empty, and their counts."""
        _, bins, counts = self._read()
        return np.stack([bins, counts], axis=1, dtype=np.int64)

    def reduce(self) -> None:
        """Keep the numbers alone: accumulators take memory by the unit."""
        self._numbers, self.moments = self._read(), None
        self.facts.noted.settle()

    def _read(self) -> Numbers:
        if self._numbers is None:
            assert self.moments is not None
            self._numbers = self.moments.statistics()[0], *bins_of(self.moments)
        return self._numbers


def read_together(readings: Iterable[Reading]) -> None:
    """Read the numbers of many readings at once, which takes a fraction of the time.

    Raises:
        ValueError: a registered statistic fails.
    """
    alike = defaultdict[tuple[int, tuple[str, ...]], list[tuple[Reading, Moments]]](list)
    for reading in readings:
        moments = reading.moments
        if reading._numbers is None and type(moments) is Moments:  # others have more statistics
            alike[moments.units.shape[1], moments.fields].append((reading, moments))
    for (_, fields), pairs in alike.items():
        units = np.concatenate([moments.units.cpu().numpy() for _, moments in pairs])
        histograms = np.concatenate([moments.histogram.cpu().numpy() for _, moments in pairs])
        rows = summarize_units(units, histograms, fields)
        for (reading, moments), row in zip(pairs, rows, strict=True):
            reading._numbers = row, *bins_of(moments)


def bins_of(moments: Moments) -> tuple[NDArray[np.uint16], NDArray[np.unsignedinteger[Any]]]:
    """The bins of a tensor's histogram that are not empty, and their counts, (bins,) each."""
    counts = moments.histogram[0].cpu().numpy()
    bins = np.flatnonzero(counts)
    counts = counts[bins]
    return bins.astype(np.uint16), counts.astype(np.min_scalar_type(counts.max(initial=0)))
