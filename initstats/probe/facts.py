"""What is known of the operation that made a tensor, beside the statistics of its entries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from initstats.probe.elementwise import Phi
from initstats.probe.operations import aside
from initstats.probe.recurrent import Counted

if TYPE_CHECKING:
    from initstats.probe.slots import Address

FACTS = ("gain", "low", "high", "saturated_fraction", "fan_in", "sigma_w2")
"""Columns of a probe's table."""


class Given(NamedTuple):
    """What is kept of an elementwise function that another process has."""

    gain: float
    bounds: tuple[float, float]


@dataclass(eq=False)
class Facts:
    """The facts about a tensor at one step.

    Attributes:
        phi: the elementwise function that made a value of the last value that none made; None for
            weights.
        fan_in: how many inputs a unit sums; NaN where the operation is no sum of products.
        weight: names the weights of that sum, as the operation used them.
    """

    phi: Phi | Given | None = None
    fan_in: float = math.nan
    weight: Address | None = None
    _saturated: Tensor | int = 0
    _entries: int = 0

    def observe(self, x: Tensor, phi: Phi) -> None:
        """Note down the function of a value, and count the entries at its bounds."""
        self.phi, bounds = phi, phi.bounds
        if not bounds.exist:
            return
        with aside():
            x = x.detach()
            if math.isnan(bounds.high):
                at = x <= bounds.at_low
            elif math.isnan(bounds.low):
                at = x >= bounds.at_high
            else:
                at = (x <= bounds.at_low) | (x >= bounds.at_high)
            self._saturated = self._saturated + at.count_nonzero()
            self._entries += x.numel()

    def observe_gates(self, counted: Counted) -> None:
        """Count the entries at the bounds inside of a recurrent operation, whose state has such."""
        self.phi = Given(1.0, (-1.0, 1.0))
        self._saturated = self._saturated + counted.at
        self._entries += counted.entries

    def sum_with(self, fan_in: float, weight: Address | None) -> None:
        """Note down the sum that the tensor is the output, or the weight, of."""
        if math.isnan(self.fan_in):
            self.fan_in, self.weight = fan_in, weight

    def portable(self) -> Facts:
        """The same facts for another process."""
        phi = self.phi and Given(self.gain, self.bounds)
        return Facts(phi, self.fan_in, self.weight, int(self._saturated), self._entries)

    def merge(self, other: Facts) -> None:
        """Count the entries at a bound that another process has seen, too."""
        self._saturated = self._saturated + other._saturated
        self._entries += other._entries

    @property
    def bounds(self) -> tuple[float, float]:
        """The bounds of phi, low and high; NaN where there is none."""
        return self.phi.bounds[:2] if self.phi else (math.nan, math.nan)

    @property
    def gain(self) -> float:
        """The gain of phi."""
        return self.phi.gain if self.phi else math.nan

    @property
    def saturated_fraction(self) -> float:
        """The share of entries that were at a bound; NaN where there is no bound.

        Of a recurrent operation it is the share of its gates and candidates.
        """
        if not self._entries:
            return math.nan
        return int(self._saturated) / self._entries
