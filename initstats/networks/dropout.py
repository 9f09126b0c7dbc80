"""Dropout (Srivastava et al. 2014): entries become 0, the others larger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from initstats.networks.block import Block, Expectation, Leaf, Run, Signal
from initstats.theory.state import Cotangent, State


@dataclass(frozen=True)
class Dropout(Block):
    """Every entry by itself is 0 with probability `rate`; the others are divided by 1 - rate.

    Attributes:
        rate: probability that an entry is dropped.

    Raises:
        ValueError: rate is no probability below 1.
    """

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(
                f"Dropout: rate is a probability, at least 0 and below 1: got {self.rate}"
            )

    @property
    def outputs(self) -> Signal:
        """The signal that is read."""
        return self.reads

    @property
    def random(self) -> bool:
        """Whether anything is dropped."""
        return self.rate > 0

    def leaves(self) -> Iterator[Leaf]:
        """None: what it gives is part of the next tensor."""
        return iter(())

    def forward(self, x: Tensor, at: Run) -> Tensor:
        """The entries that stay, in memory of its own."""
        units, positions = self.reads.units, self.reads.positions
        keep = 1 - self.rate
        mask = at.mask(self, (units, positions, x.shape[-1] // positions), keep).div(keep)
        at.tape.append(mask)
        return x * mask

    def backward(self, gradient: Tensor, at: Run, *, inward: bool = True) -> Tensor:
        """The gradients of the entries that stay."""
        return gradient * at.tape.pop()

    def expect(self, state: State, at: Expectation) -> State:
        """q / (1 - rate), and pairs of samples as before, whose masks are their own."""
        return state.dropped(1 - self.rate)

    def pull(self, cotangent: Cotangent, at: Expectation, *, inward: bool = True) -> Cotangent:
        """Squares over 1 - rate."""
        return cotangent.dropped(1 - self.rate)
