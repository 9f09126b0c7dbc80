"""What is known of the operation that made a tensor, beside the statistics of its entries."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from initstats.probe.elementwise import Phi
from initstats.probe.noted import Noted
from initstats.probe.operations import aside
from initstats.probe.recurrent import Counted

if TYPE_CHECKING:
    from initstats.probe.linear import Sum
    from initstats.probe.slots import Address

FACTS = (
    *("gain", "factor", "low", "high", "saturated_fraction", "shut_fraction"),
    *("fan_in", "fan_out", "sigma_w2"),
    *(
        "normalized",
        "shares_axis",
        "summed_axis",
        "paired",
        "paired_terms",
        "draws",
        "unregistered",
        "read_as_logits",
    ),
)
"""Columns of a probe's table."""


class Given(NamedTuple):
    """What is kept of an elementwise function that another process has."""

    gain: float
    bounds: tuple[float, float]
    factor: float = math.nan


@dataclass(eq=False)
class Facts:
    """The facts about a tensor at one step.

    Attributes:
        phi: the elementwise function that made a value of the last value that none made; None for
            weights.
        fan_in: how many inputs a unit sums; NaN where the operation is no sum of products.
        fan_out: the number of units times the positions of a kernel; NaN likewise.
        normalized: 1 where the value is the same however large what it is made of is, 0 elsewhere.
        shares_axis: the dimension along which the entries are shares of 1, or their logarithms.
        summed_axis: the dimension of such shares that a product with another value sums over.
        paired: 1 where a product pairs each row of a value with each of another, 0 of others.
        paired_terms: how many terms an entry of a product of two values sums; of attention in one
            call, an entry of its scores.
        draws: how many random numbers the operation multiplied the value by.
        unregistered: entries of weights that get gradients and are no parameters of the model.
        read_as_logits: 1 where a loss that expects logits reads the value.
        weight: names the weights of that sum, as the operation used them.
        requires_grad: whether autograd follows the tensor.
        noted: of its tokens, and of the sum that it is.
    """

    phi: Phi | Given | None = None
    fan_in: float = math.nan
    fan_out: float = math.nan
    normalized: float = math.nan
    shares_axis: float = math.nan
    summed_axis: float = math.nan
    paired: float = math.nan
    paired_terms: float = math.nan
    draws: float = math.nan
    unregistered: int = 0
    read_as_logits: float = math.nan
    weight: Address | None = None
    requires_grad: bool = False
    noted: Noted = field(default_factory=Noted)
    _saturated: Tensor | int = 0
    _entries: int = 0
    _shut: Tensor | int = 0
    _gates: int = 0

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
        self._shut = self._shut + counted.shut
        self._gates += counted.gates

    def sum_with(self, each: Sum, weight: Address | None) -> None:
        """Note down the sum that the tensor is the output, or the weight, of."""
        if math.isnan(self.fan_in):
            self.fan_in, self.fan_out, self.weight = each.fan_in, each.fan_out, weight

    def portable(self) -> Facts:
        """The same facts for another process."""
        phi = self.phi and Given(self.gain, self.bounds, self.factor)
        shut = self._shut.cpu() if isinstance(self._shut, Tensor) else self._shut
        saturated, noted = int(self._saturated), self.noted.portable()
        return dataclasses.replace(self, phi=phi, noted=noted, _saturated=saturated, _shut=shut)

    def merge(self, other: Facts) -> None:
        """Count the entries at a bound that another process has seen, too."""
        self.requires_grad |= other.requires_grad
        self.noted.merge(other.noted)
        self._saturated = self._saturated + other._saturated
        self._entries += other._entries
        self._shut = self._shut + other._shut
        self._gates += other._gates

    @property
    def bounds(self) -> tuple[float, float]:
        """The bounds of phi, low and high; NaN where there is none."""
        return self.phi.bounds[:2] if self.phi else (math.nan, math.nan)

    @property
    def gain(self) -> float:
        """The gain of phi."""
        return self.phi.gain if self.phi else math.nan

    @property
    def factor(self) -> float:
        """The constant before phi that makes it steep; NaN where no function made the value."""
        phi = self.phi
        if isinstance(phi, Phi) and (phi.function is None or not phi.known):
            return math.nan
        return phi.factor if phi else math.nan

    @property
    def saturated_fraction(self) -> float:
        """The share of entries that were at a bound; NaN where there is no bound.

        Of a recurrent operation it is the share of its gates and candidates, where forget gates
        that a bias opens do not count, nor the input gates that write as slowly.
        """
        if not self._entries:
            return math.nan
        return int(self._saturated) / self._entries

    @property
    def shut_fraction(self) -> float:
        """The share of forget gates that are below 1%, or of output gates if that is larger.

        It is that of the layer inside of a recurrent operation that has most; NaN where there are
        no such gates.
        """
        if not self._gates or not isinstance(self._shut, Tensor):
            return math.nan
        return float(self._shut.max()) / self._gates
