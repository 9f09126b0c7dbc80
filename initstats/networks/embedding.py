"""What stands before a transformer: patches of an image as tokens, and their positions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Generator, Tensor, randn

from initstats.activations import Activation
from initstats.inits import Init
from initstats.networks.block import Expectation, Leaf, Linear, Run, Signal, Weights
from initstats.networks.parameters import check_sizes
from initstats.theory.state import Cotangent, Law, State


@dataclass(frozen=True)
class Patches(Linear):
    """Square patches of an image, side by side, each multiplied with the same weights.

    Dosovitskiy et al. 2021 (arXiv:2010.11929).

    Attributes:
        units: number of features of a token.
        side: of a patch, in pixels.

    Raises:
        ValueError: a size is no whole number above 0.
    """

    units: int
    side: int

    def __post_init__(self) -> None:
        check_sizes("Patches", units=self.units, side=self.side)

    def on(self, inputs: Signal) -> Self:
        """The same block behind images that patches cover."""
        if inputs.plane is None:
            raise ValueError(
                "patches are of images of shape (channels, height, width); what they are given has "
                f"shape ({inputs.units},)"
            )
        if any(side % self.side for side in inputs.plane):
            height, width = inputs.plane
            raise ValueError(
                f"patch: patches of side {self.side} do not cover images of {height} x {width} "
                f"pixels: choose a divisor of both sides: {_divisors(*inputs.plane)}"
            )
        return super().on(inputs)

    @property
    def outputs(self) -> Signal:
        """Tokens, as many across and down as there are patches."""
        height, width = self.reads.sides
        return self.reads.multiplied(self.units, (height // self.side, width // self.side))

    @property
    def weight(self) -> tuple[int, int, int, int]:
        """(units, channels, side, side)."""
        return self.units, self.reads.units, self.side, self.side

    @property
    def copied(self) -> int:
        """All entries of an image."""
        return self.reads.size

    def gather(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """([seeds,] channels x side x side, patches x samples)."""
        (rows, across), side = self.outputs.sides, self.side
        plane = x.reshape(*x.shape[:-2], self.reads.units, rows, side, across, side, -1)
        by_tap = plane.movedim((-5, -3), (-3, -2))
        return by_tap.reshape(*x.shape[:-2], self.reads.units * side * side, -1)

    def folded(self, columns: Tensor) -> Tensor:
        """Gradients of patches as those of images: they do not overlap."""
        (rows, across), side = self.outputs.sides, self.side
        lead = columns.shape[:-2]
        by_tap = columns.reshape(*lead, self.reads.units, side, side, rows, across, -1)
        plane = by_tap.movedim((-3, -2), (-5, -3))
        return plane.reshape(*lead, self.reads.units, -1)

    def seen(self, state: State) -> State:
        """Every patch by itself: theory's rows are patches."""
        return state

    def heard(self, cotangent: Cotangent, law: Law) -> Cotangent:
        """A sum over all units, of the patch that they read."""
        return cotangent.weighted(math.sqrt(law.sigma_w2 * self.units / math.prod(self.weight[1:])))


@dataclass(frozen=True)
class Positions(Leaf):
    """Adds to every token a vector of its position, whose entries are normal, of variance 1."""

    tensor: ClassVar[str] = "stream"

    @property
    def outputs(self) -> Signal:
        """The signal that is read, behind one more set of weights."""
        return self.reads._replace(products=self.reads.products + 1)

    def draw(
        self, init: Init, activation: Activation, generators: Callable[[int], Generator]
    ) -> dict[int, Weights]:
        """The vectors, (units, positions); no init has a say in them."""
        number = self.outputs.products
        shape = self.reads.units, self.reads.positions
        return {number: Weights(randn(shape, generator=generators(number)), None)}

    def forward(self, x: Tensor, at: Run) -> Tensor:
        """The sum, in memory of its own."""
        vectors = at.weight(self.outputs.products)
        by_position = x.view(*x.shape[:-1], self.reads.positions, -1)
        y = (by_position + vectors.unsqueeze(-1)).view(x.shape)
        at.emit(self, "forward", y)
        return y

    def backward(self, gradient: Tensor, at: Run, *, inward: bool = True) -> Tensor:
        """The same gradient."""
        at.emit(self, "backward", gradient)
        return gradient

    def expect(self, state: State, at: Expectation) -> State:
        """1 more for a token with itself, and with those of its position in other samples."""
        moved = state.placed()
        at.emit(self, moved)
        return moved

    def pull(self, cotangent: Cotangent, at: Expectation, *, inward: bool = True) -> Cotangent:
        """The same."""
        at.emit_gradient(self, cotangent)
        return cotangent


def _divisors(height: int, width: int) -> str:
    """The sizes that divide two sides."""
    shared = math.gcd(height, width)
    return ", ".join(str(size) for size in range(1, shared + 1) if shared % size == 0)
