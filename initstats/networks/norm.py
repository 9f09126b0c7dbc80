"""Normalization of a sample by its own numbers: over its units, or over groups of them.

LayerNorm (Ba et al. 2016, arXiv:1607.06450), RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467),
GroupNorm (Wu & He 2018, arXiv:1803.08494), as they are before training: gain 1, shift 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from initstats.networks.block import Expectation, Run, Signal
from initstats.networks.normalization import EPS, Normalization
from initstats.networks.parameters import check_sizes
from initstats.theory.state import Cotangent, State


@dataclass(frozen=True)
class Norm(Normalization):
    """Units less their mean, over their standard deviation, sample by sample.

    Attributes:
        groups: of units, each normalized by itself.
        centred: whether the mean is taken off; if not, it is RMSNorm.
        whole: whether the positions of a sample are normalized together, as those of images are;
            if not, each by itself, as tokens are.

    Raises:
        ValueError: groups is no whole number above 0.
    """

    groups: int = 1
    centred: bool = True
    whole: bool = False

    def __post_init__(self) -> None:
        check_sizes("Norm", groups=self.groups)

    def on(self, inputs: Signal) -> Self:
        """The same block behind a signal whose units make as many groups."""
        if inputs.units % self.groups:
            raise ValueError(f"{inputs.units} units do not make {self.groups} groups of one size")
        size = inputs.units // self.groups * (inputs.positions if self.whole else 1)
        if self.centred and size < 2:
            raise ValueError(
                "a group of one unit less its mean is 0: use fewer groups, more units, or rms"
            )
        return super().on(inputs)

    def normalized(self, x: Tensor, at: Run) -> Tensor:
        """`forward`, not measured."""
        rows = self._rows(x)
        y = rows - rows.mean(-2, keepdim=True) if self.centred else rows.clone()
        inverse = y.square().mean(-2, keepdim=True).add_(EPS).rsqrt_()
        y.mul_(inverse)
        at.tape += (y, inverse)
        return y.view(x.shape)

    def pulled_back(self, gradient: Tensor, at: Run) -> Tensor:
        """`backward`, not measured."""
        inverse, y = at.tape.pop(), at.tape.pop()
        rows = self._rows(gradient)
        pulled = rows - y * (rows * y).mean(-2, keepdim=True)
        if self.centred:
            pulled.sub_(rows.mean(-2, keepdim=True))
        return pulled.mul_(inverse).view(gradient.shape)

    def expected(self, state: State, at: Expectation) -> State:
        """Second moment 1 for every sample, exactly at every width."""
        at.tape.append(state)
        freedom = self.reads.units // self.groups - self.centred
        return state.normed(freedom=freedom, **self._moments)

    def heard(self, cotangent: Cotangent, at: Expectation) -> Cotangent:
        """Squares of gradients over the variance that was divided by."""
        before: State = at.tape.pop()
        return before.unnormed(cotangent, **self._moments)

    @property
    def _moments(self) -> dict[str, Any]:
        """What is taken off and divided by."""
        whole = self.whole and self.reads.plane is not None
        return {"centred": self.centred, "eps": EPS, "whole": whole}

    def _rows(self, x: Tensor) -> Tensor:
        """([seeds,] groups, entries that are normalized together, all others)."""
        others = x.shape[-1] // self.reads.positions if self.whole else x.shape[-1]
        return x.reshape(*x.shape[:-2], self.groups, -1, others)
