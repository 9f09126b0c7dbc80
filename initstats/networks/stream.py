"""A layer of a residual stream: what is there, and what a branch adds to it.

Pre-norm and post-norm: Xiong et al. 2020 (arXiv:2002.04745); scaled branches: Bachlechner et al.
2021 (arXiv:2003.04887), Hayou et al. 2021 (arXiv:2010.12859), Wang et al. 2022 (arXiv:2203.00555);
stochastic depth: Huang et al. 2016 (arXiv:1603.09382), with survivors divided by their share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from initstats.networks.block import Block, Direction, Expectation, Leaf, Linear, Run, Signal
from initstats.networks.normalization import Normalization
from initstats.networks.tokens import RESEMBLANCE, tokens_resemblance
from initstats.plural import counted
from initstats.theory.state import Cotangent, State, Unpredicted


@dataclass(frozen=True)
class Stream(Leaf):
    """skip x + scale branch(x), normalized if there is a norm; all of it counts as one layer.

    Attributes:
        branch: blocks that give as many units and positions as they read.
        part: the kind of layer, such as `attention`.
        scale: factor of what the branch gives.
        skip: factor of the stream.
        norm: of the sum.
        keep: probability that a sample's branch is kept; those that are kept are divided by it.
        tokens: whether positions are tokens of a sequence, whose resemblance is of interest.
    """

    tensor: ClassVar[str] = "stream"

    branch: Block
    part: str = field(default="", kw_only=True)
    scale: float = field(default=1.0, kw_only=True)
    skip: float = field(default=1.0, kw_only=True)
    norm: Normalization | None = field(default=None, kw_only=True)
    keep: float = field(default=1.0, kw_only=True)
    tokens: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(
                f"Stream: keep is a probability, above 0 and at most 1: got {self.keep}"
            )

    def on(self, inputs: Signal) -> Self:
        """The same block behind a signal of the shape that the branch gives."""
        layer = inputs.layer + 1
        branch = self.branch.on(inputs._replace(layer=layer, part=self.part, within=True))
        if branch.outputs[:2] != inputs[:2]:
            raise ValueError(
                f"a residual branch must give what it reads, {counted(inputs.units, 'unit')} over "
                f"{inputs.plane}: it gives {branch.outputs.units} over {branch.outputs.plane}"
            )
        norm = self.norm and self.norm.on(branch.outputs)
        return replace(self, branch=branch, norm=norm, inputs=inputs)

    @property
    def outputs(self) -> Signal:
        """The shape that is read; a sum is no longer an activation's output."""
        return self.branch.outputs._replace(activated=False, within=False)

    @property
    def numbers(self) -> tuple[str, ...]:
        """The branch's share of the sum's square; of tokens, how they resemble each other."""
        return ("branch_share", *(RESEMBLANCE if self.tokens else ()))

    @property
    def together(self) -> int:
        """Samples that the norm normalizes together."""
        return self.norm.together if self.norm else 1

    @property
    def random(self) -> bool:
        """Whether it draws masks, or the branch does."""
        return self.keep < 1 or self.branch.random

    def leaves(self) -> Iterator[Leaf]:
        """The leaves of the branch, and the stream."""
        yield from self.branch.leaves()
        yield self

    def forward(self, x: Tensor, at: Run) -> Tensor:
        """The sum, in memory of its own."""
        stream = x * self.skip  # x may lie in memory that the branch writes to
        added = self.branch.forward(x, at)
        if self.keep < 1:
            samples = x.shape[-1] // self.reads.positions
            mask = at.mask(self, (1, 1, samples), self.keep).div_(self.keep)
            at.tape.append(mask)
            added = added * self._everywhere(mask, samples)
        stream.add_(added, alpha=self.scale)
        ratio = _square(added) * self.scale**2, _square(stream)
        if self.norm:
            stream = self.norm.normalized(stream, at)
        at.emit(self, "forward", stream)
        at.note(self, "forward", branch_share=ratio)
        self._note_tokens(stream, "forward", at)
        return stream

    def backward(self, gradient: Tensor, at: Run, *, inward: bool = True) -> Tensor:
        """The gradient through the branch, plus the gradient past it."""
        at.emit(self, "backward", gradient)
        self._note_tokens(gradient, "backward", at)
        if self.norm:
            gradient = self.norm.pulled_back(gradient, at)
        through = gradient * self.scale
        if self.keep < 1:
            mask = at.tape.pop()
            through *= self._everywhere(mask, mask.shape[-1])
        return (gradient * self.skip).add_(self.branch.backward(through, at))

    def expect(self, state: State, at: Expectation) -> State:
        """A sum of squares: what the last product of the branch gives is new, of mean 0."""
        *_, last = self.branch.leaves()
        if not isinstance(last, Linear):
            raise Unpredicted(
                f"theory follows residual sums whose branch ends in a product; this ends in "
                f"{type(last).__name__}"
            )
        added = self.branch.expect(state, at).weighted(self.scale, keep=self.keep)
        stream = state.weighted(self.skip).plus(added)
        at.note(self, branch_share=(added.square, stream.square))
        if self.norm:
            stream = self.norm.expected(stream, at)
        at.emit(self, stream)
        return stream

    def pull(self, cotangent: Cotangent, at: Expectation, *, inward: bool = True) -> Cotangent:
        """Squares of gradients through the branch, plus those past it."""
        at.emit_gradient(self, cotangent)
        if self.norm:
            cotangent = self.norm.heard(cotangent, at)
        through = cotangent.weighted(self.scale, keep=self.keep)
        return cotangent.weighted(self.skip).plus(self.branch.pull(through, at))

    def _note_tokens(self, x: Tensor, direction: Direction, at: Run) -> None:
        if self.tokens:
            at.note(self, direction, **tokens_resemblance(x, self.outputs.positions))

    def _everywhere(self, mask: Tensor, samples: int) -> Tensor:
        """A number for each sample, at all units and positions."""
        positions = self.reads.positions
        shape = *mask.shape[:-1], positions, samples
        everywhere: Tensor = mask.unsqueeze(-2).expand(shape)
        return everywhere.reshape(*mask.shape[:-1], positions * samples)


def _square(x: Tensor) -> Tensor:
    """The sum of squares of all entries, ([seeds,]), in float64."""
    size: Tensor = torch.linalg.vector_norm(x, dim=(-2, -1))
    return size.double().square()
