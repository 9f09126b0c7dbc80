"""What the blocks of a network note about their tensors: ratios of sums over all samples."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from initstats.networks.block import Ratio


class Noted:
    """Sums of numerators and denominators.

    Args:
        names: columns, in their order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._sums: dict[tuple[Hashable, str], Ratio] = {}

    def add(self, place: Hashable, ratios: Mapping[str, Ratio]) -> None:
        """Add a tile's sums, ([seeds,]) each, to a place's."""
        for name, ratio in ratios.items():
            before = self._sums.get((place, name))
            sums = ratio if before is None else tuple(map(torch.add, before, ratio))
            self._sums[place, name] = sums[0], sums[1]

    def row(self, place: Hashable, seed: int) -> NDArray[np.float64]:
        """The numbers of a place and of one of the seeds, NaN where nothing was noted."""
        return np.array([self._ratio(place, name, seed) for name in self.names], np.float64)

    def _ratio(self, place: Hashable, name: str, seed: int) -> float:
        ratio = self._sums.get((place, name))
        if ratio is None:
            return np.nan
        numerator, denominator = (float(each.reshape(-1)[seed]) for each in ratio)
        return numerator / denominator if denominator else np.nan
