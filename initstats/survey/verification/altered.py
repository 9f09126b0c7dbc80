"""Networks for verification: without skips, with directions of rows, attention alone.

The correlation that a table has of samples is the mean of their products over that of their
squares. The cosine of two rows does not ask how long they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from initstats import networks
from initstats.networks import Block, Expectation, Leaf, Network, Run, Serial, Signal, Stream
from initstats.networks.attention import Attention
from initstats.networks.pointwise import Pointwise
from initstats.theory.state import Cotangent, State


@dataclass(frozen=True)
class Rows(Leaf):
    """Passes rows on, samples or tokens, and measures them.

    Attributes:
        tensor: what the table calls them.
        directed: whether each is measured over its root mean square over units.
    """

    tensor: str = "given"
    directed: bool = False

    @property
    def outputs(self) -> Signal:
        """The signal that is read."""
        return self.reads

    def forward(self, x: Tensor, at: Run) -> Tensor:
        """The rows as they are."""
        x = x.reshape(*x.shape[:-2], self.reads.units, -1)  # data come with positions in one axis
        size = x.square().mean(-2, keepdim=True).sqrt() if self.directed else 1.0
        at.emit(self, "forward", x / size)
        return x

    def backward(self, gradient: Tensor, at: Run, *, inward: bool = True) -> Tensor:
        """The gradient as it is."""
        at.emit(self, "backward", gradient)
        return gradient

    def expect(self, state: State, at: Expectation) -> State:
        """The state as it is."""
        at.emit(self, state.normed(centred=False, eps=0.0) if self.directed else state)
        return state

    def pull(self, cotangent: Cotangent, at: Expectation, *, inward: bool = True) -> Cotangent:
        """The cotangent as it is."""
        at.emit_gradient(self, cotangent)
        return cotangent


@dataclass(frozen=True)
class _Altered:
    """Builds a network of the catalogue, and alters it.

    Attributes:
        network: its spelling.
        skip: whether what goes past the branches of a stream is kept.
        directed: whether the directions of the last layer's rows are measured.
    """

    network: str
    skip: bool = True
    directed: bool = False

    def __call__(self, width: int, depth: int) -> Block:
        found = networks.get(self.network).build(width=width, depth=depth)
        assert isinstance(found, Serial)
        blocks = [
            replace(block, skip=0.0) if isinstance(block, Stream) and not self.skip else block
            for block in found.blocks
        ]
        return Serial(*blocks, *([Rows("direction", directed=True)] if self.directed else []))


def altered(network: str, *, skip: bool = True, directed: bool = False) -> Network:
    """A network of the catalogue, altered.

    Args:
        network: its spelling.
        skip: whether what goes past the branches of a stream is kept.
        directed: whether the last layer has rows of the tensor `direction`, whose sample
            correlation is the mean cosine of two rows.
    """
    words = [" without skip"] * (not skip) + [" with directions"] * directed
    return Network("".join([network, *words]), _Altered(network, skip, directed))


@dataclass(frozen=True)
class _Attention:
    """Builds attention of tokens that are given, behind nothing."""

    heads: int

    def __call__(self, width: int, depth: int) -> Block:
        branch = Serial(Attention(self.heads), Pointwise(width, tensor="branch"))
        return Serial(Rows(), Stream(branch, part="attention", skip=0.0, tokens=True))


def attention(heads: int) -> Network:
    """Attention and the product behind it, of data whose units are as many as the width.

    The data are the tensor `given`, and what comes out is the stream, of one layer.
    """
    return Network(f"attention of {heads} heads", _Attention(heads))
