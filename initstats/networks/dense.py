"""A fully connected layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from initstats.networks.block import Linear, Signal
from initstats.networks.parameters import check_sizes
from initstats.theory.state import Cotangent, Law, State


@dataclass(frozen=True)
class Dense(Linear):
    """A layer whose units each read the whole input, all positions of an image.

    Attributes:
        units: number of units.

    Raises:
        ValueError: units is no whole number above 0.
    """

    units: int

    def __post_init__(self) -> None:
        check_sizes("Dense", units=self.units)

    @property
    def outputs(self) -> Signal:
        """Units without positions."""
        return self.reads.multiplied(self.units, None)

    @property
    def weight(self) -> tuple[int, int]:
        """(units, entries of one sample)."""
        return self.units, self.reads.size

    def gather(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """The input itself; positions count as units."""
        return x.view(*x.shape[:-2], self.reads.size, -1)

    def folded(self, columns: Tensor) -> Tensor:
        """The same entries; positions are apart from units again."""
        return columns.reshape(*columns.shape[:-2], self.reads.units, -1)

    def seen(self, state: State) -> State:
        """The mean over the positions of an image."""
        if self.reads.plane is None or state.square.ndim == 1:
            return state
        return state.over_positions(lambda values: values.mean((-2, -1)))

    def heard(self, cotangent: Cotangent, law: Law) -> Cotangent:
        """A sum over all units (Schoenholz et al. 2017)."""
        out, fan_in = self.weight
        heard = cotangent.weighted(math.sqrt(law.sigma_w2 * out / fan_in))
        if self.reads.plane is None:
            return heard
        square = heard.square[:, None, None]
        return replace(heard, square=np.broadcast_to(square, (len(square), *self.reads.plane)))
