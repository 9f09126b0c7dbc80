"""A sum of the signal and of what some blocks make of it (He et al. 2016, arXiv:1512.03385)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from initstats.networks.block import Block, Expectation, Leaf, Run, Signal
from initstats.plural import counted
from initstats.theory.state import Cotangent, State, Unpredicted


@dataclass(frozen=True)
class Residual(Block):
    """x + scale * branch(x).

    Attributes:
        branch: blocks that give as many units and positions as they read.
        scale: the factor of what the branch gives.
    """

    branch: Block
    scale: float = 1.0

    def on(self, inputs: Signal) -> Self:
        """The same block behind a signal of the shape that the branch gives."""
        branch = self.branch.on(inputs)
        if branch.outputs[:2] != inputs[:2]:
            raise ValueError(
                f"a residual branch must give what it reads, {counted(inputs.units, 'unit')} over "
                f"{inputs.plane}: it gives {branch.outputs.units} over {branch.outputs.plane}"
            )
        return replace(self, branch=branch, inputs=inputs)

    @property
    def outputs(self) -> Signal:
        """The shape that is read; a sum is no longer an activation's output."""
        return self.branch.outputs._replace(activated=False)

    @property
    def random(self) -> bool:
        """Whether the branch draws masks."""
        return self.branch.random

    def leaves(self) -> Iterator[Leaf]:
        """The leaves of the branch."""
        return self.branch.leaves()

    def forward(self, x: Tensor, at: Run) -> Tensor:
        """The sum."""
        stream = x.clone()  # x may lie in memory that the branch writes to
        return stream.add_(self.branch.forward(x, at), alpha=self.scale)

    def backward(self, gradient: Tensor, at: Run, *, inward: bool = True) -> Tensor:
        """The gradient through the branch, plus the gradient past it."""
        stream = gradient.clone()
        return stream.add_(self.branch.backward(gradient * self.scale, at))

    def expect(self, state: State, at: Expectation) -> State:
        """Not known yet."""
        raise Unpredicted("theory does not follow residual sums yet")

    def pull(self, cotangent: Cotangent, at: Expectation, *, inward: bool = True) -> Cotangent:
        """Not known yet."""
        raise Unpredicted("theory does not follow residual sums yet")
