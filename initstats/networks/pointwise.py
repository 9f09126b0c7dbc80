"""A layer that reads each position alone: a token's features, a pixel's channels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from initstats.networks.block import Linear, Signal
from initstats.networks.parameters import check_sizes
from initstats.theory.state import Cotangent, Law, State


@dataclass(frozen=True)
class Pointwise(Linear):
    """The same product at every position.

    Attributes:
        units: number of units.

    Raises:
        ValueError: units is no whole number above 0.
    """

    units: int

    def __post_init__(self) -> None:
        check_sizes("Pointwise", units=self.units)

    @property
    def outputs(self) -> Signal:
        """Units over the positions that are read."""
        return self.reads.multiplied(self.units, self.reads.plane)

    @property
    def weight(self) -> tuple[int, int]:
        """(units, units that are read)."""
        return self.units, self.reads.units

    def gather(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """The input itself."""
        return x

    def folded(self, columns: Tensor) -> Tensor:
        """The same entries."""
        return columns

    def seen(self, state: State) -> State:
        """Every position by itself."""
        return state

    def heard(self, cotangent: Cotangent, law: Law) -> Cotangent:
        """A sum over all units."""
        out, fan_in = self.weight
        return cotangent.weighted(math.sqrt(law.sigma_w2 * out / fan_in))
