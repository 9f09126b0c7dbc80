"""What is known of the operation that made a tensor, beside the statistics of its entries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from initstats.probe.elementwise import Phi

if TYPE_CHECKING:
    from initstats.probe.slots import Slot

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
        weight: the weights of that sum as the operation used them.
        requires_grad: whether autograd follows the tensor.
    """

    phi: Phi | Given | None = None
    fan_in: float = math.nan
    weight: Slot | None = None
    requires_grad: bool = False
    _saturated: Tensor | int = 0
    _entries: int = 0

    def observe(self, x: Tensor, phi: Phi) -> None:
        """Note down the function of a value, and count the entries at its bounds."""
        self.phi, bounds = phi, phi.bounds
        if not bounds.exist:
            return
        with torch._C.DisableTorchFunction(), torch.no_grad():
            x = x.detach()
            if math.isnan(bounds.high):
                at = x <= bounds.at_low
            elif math.isnan(bounds.low):
                at = x >= bounds.at_high
            else:
                at = (x <= bounds.at_low) | (x >= bounds.at_high)
            self._saturated = self._saturated + at.count_nonzero()
            self._entries += x.numel()

    def sum_with(self, fan_in: float, weight: Slot | None) -> None:
        """Note down the sum that the tensor is the output, or the weight, of."""
        if math.isnan(self.fan_in):
            self.fan_in, self.weight = fan_in, weight

    def portable(self) -> Facts:
        """The same facts for another process, without the weights."""
        phi = self.phi and Given(self.gain, self.bounds)
        return Facts(
            phi, self.fan_in, None, self.requires_grad, int(self._saturated), self._entries
        )

    def merge(self, other: Facts) -> None:
        """Count the entries at a bound that another process has seen, too."""
        self.requires_grad |= other.requires_grad
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
        """The share of entries that were at a bound; NaN where there is no bound."""
        if not self._entries:
            return math.nan
        return int(self._saturated) / self._entries
