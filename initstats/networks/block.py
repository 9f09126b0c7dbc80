"""The block, a step of a network: it runs, goes back and predicts.

A network applies its blocks one after the other: forward to a tile of samples, backward to its
gradient, and likewise to what mean-field theory knows of both. neural-tangents' `stax` (Novak et
al. 2020, arXiv:1912.02803) is the example. Tensors are ([seeds,] units, entries), entries being
positions x samples with the samples contiguous, so that a statistic of a unit reads contiguous
memory.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple, Protocol, Self

from torch import Generator, Tensor

from initstats.activations import Activation
from initstats.inits import Init
from initstats.moments.tokens import Ratio as Ratio
from initstats.theory.state import Array, Cotangent, Law, State

Direction = Literal["forward", "backward"]
Place = tuple[int, str, str]
"""Layer, tensor and direction: where in a network a row of the table belongs."""


class Signal(NamedTuple):
    """The facts about a tensor that are known before anything runs.

    Attributes:
        units: units of a layer, channels of an image, features of a flat sample.
        plane: height and width of an image; None where a unit has no positions.
        layer: number of layers behind it, the one that it is within among them.
        activated: whether an activation made it.
        products: number of matrix products behind it.
        part: the kind of layer that it is within, such as `attention`; empty in a plain stack.
        within: whether it is within a layer of several blocks: products there begin no new one.
    """

    units: int
    plane: tuple[int, int] | None = None
    layer: int = 0
    activated: bool = False
    products: int = 0
    part: str = ""
    within: bool = False

    def multiplied(self, units: int, plane: tuple[int, int] | None) -> Signal:
        """What a product with weights makes of it, units over a plane."""
        layer = self.layer + (not self.within)
        return Signal(units, plane, layer, False, self.products + 1, self.part, self.within)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the plane; (1, 1) where there is none."""
        return self.plane or (1, 1)

    @property
    def positions(self) -> int:
        """Positions of a unit."""
        return math.prod(self.sides)

    @property
    def size(self) -> int:
        """Entries of one sample: units x positions."""
        return self.units * self.positions


class Weights(NamedTuple):
    """A layer's weight ([seeds,] units, inputs) and bias ([seeds,] units, 1), None if all are 0."""

    matrix: Tensor
    bias: Tensor | None


class Run(Protocol):
    """The functions that a block calls while a tile of samples goes through it.

    Attributes:
        tape: tensors that are kept for the way back; the last one kept is the first one taken.
    """

    tape: deque[Tensor]

    def weight(self, number: int) -> Tensor:
        """The weight ([seeds,] units, inputs) of a product, or of another block that draws one."""

    def mask(self, block: Block, sizes: tuple[int, int, int], keep: float) -> Tensor:
        """Ones with probability `keep`, else zeros, the same under every activation.

        Args:
            block: asks once on its way forward.
            sizes: units, positions, samples of the tile.

        Returns:
            ([seeds,] units, positions x samples).
        """

    def applied(self, block: Linear, x: Tensor) -> Tensor:
        """Pre-activations ([seeds,] units, entries): weights times patches of x, plus biases."""

    def transposed(self, block: Linear, gradient: Tensor) -> Tensor:
        """Gradient of the patches: transposed weights times the gradient of pre-activations."""

    def activated(self, h: Tensor) -> Tensor:
        """The activation of h, in memory that the next activation may overwrite; h stays."""

    def pulled_back(self, gradient: Tensor, h: Tensor) -> Tensor:
        """The gradient with respect to h, given that with respect to the activation of h."""

    def emit(self, block: Leaf, direction: Direction, x: Tensor) -> None:
        """Measure a tensor, or its gradient."""

    def note(self, block: Leaf, direction: Direction, **ratios: Ratio) -> None:
        """Take numbers about a tensor that its entries alone do not tell, by their column, each
        ([seeds,]).
        """


class Expectation(Protocol):
    """The functions that a block calls while theory goes through it.

    Attributes:
        activation: the one in use.
        tape: as in `Run`.
    """

    activation: Activation
    tape: list[State]

    def law(self, block: Linear) -> Law:
        """The law of the block's weights; raises `Unpredicted` if the init declares none."""

    def emit(self, block: Leaf, state: State) -> None:
        """Take what theory says of a tensor."""

    def emit_gradient(self, block: Leaf, cotangent: Cotangent) -> None:
        """Take what theory says of its gradient."""

    def note(self, block: Leaf, **ratios: tuple[Array, Array]) -> None:
        """Take numbers about a tensor that its moments do not tell, by their column: numerators and
        denominators, for each row or for all, whose means are divided.
        """


@dataclass(frozen=True)
class Block(ABC):
    """A step of a network, or several.

    ``Dense(50)`` is a plan, which does not know its input yet; `on` puts it behind a signal.

    Attributes:
        inputs: the signal that the block reads; None in a plan.
    """

    inputs: Signal | None = field(default=None, kw_only=True)

    @property
    def reads(self) -> Signal:
        """The signal that the block reads.

        Raises:
            ValueError: the block is a plan.
        """
        if self.inputs is None:
            raise ValueError(f"{self} is a plan: put it behind a signal with on(...)")
        return self.inputs

    def on(self, inputs: Signal) -> Self:
        """The same block behind a signal.

        Raises:
            ValueError: the block cannot read that signal.
        """
        return replace(self, inputs=inputs)

    @property
    @abstractmethod
    def outputs(self) -> Signal:
        """The signal that the block gives."""

    @property
    def random(self) -> bool:
        """Whether it draws masks as it runs."""
        return False

    @abstractmethod
    def leaves(self) -> Iterator[Leaf]:
        """The blocks that emit a tensor, in the order in which they run."""

    def draw(
        self, init: Init, activation: Activation, generators: Callable[[int], Generator]
    ) -> dict[int, Weights]:
        """The weights of every product, by its number.

        Args:
            init: how the weights are drawn.
            activation: the one in use; a layer's draw is told which activation it reads.
            generators: gives each product, by its number, a generator of its own.
        """
        drawn: dict[int, Weights] = {}
        for leaf in self.leaves():
            drawn |= leaf.draw(init, activation, generators)
        return drawn

    @abstractmethod
    def forward(self, x: Tensor, at: Run) -> Tensor:
        """Run a tile of samples through the block, and emit every tensor on the way."""

    @abstractmethod
    def backward(self, gradient: Tensor, at: Run, *, inward: bool = True) -> Tensor:
        """Take a gradient back through the block, and emit every gradient on the way.

        Args:
            gradient: the gradient with respect to the block's output.
            at: the run that went forward.
            inward: whether the gradient with respect to the input is wanted; if not, the returned
                tensor has no meaning.
        """

    @abstractmethod
    def expect(self, state: State, at: Expectation) -> State:
        """The counterpart of `forward` for the facts that theory knows of a signal."""

    @abstractmethod
    def pull(self, cotangent: Cotangent, at: Expectation, *, inward: bool = True) -> Cotangent:
        """The counterpart of `backward` for the facts that theory knows of a gradient."""


@dataclass(frozen=True)
class Leaf(Block):
    """A block that emits one tensor, its output, which the table calls `tensor`."""

    @property
    @abstractmethod
    def tensor(self) -> str:
        """What the table calls its output; a class attribute will do."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """Columns of what it notes about that tensor."""
        return ()

    @property
    def layer(self) -> int:
        """The layer that its output belongs to, from 1."""
        return self.outputs.layer

    @property
    def held(self) -> int:
        """Entries of one sample that it keeps beside pre-activations and activations."""
        return 0

    @property
    def together(self) -> int:
        """Samples that must be in one tile: a tile holds a multiple of them."""
        return 1

    def leaves(self) -> Iterator[Leaf]:
        """The block itself."""
        yield self

    def draw(
        self, init: Init, activation: Activation, generators: Callable[[int], Generator]
    ) -> dict[int, Weights]:
        """Nothing: a leaf without weights."""
        return {}


@dataclass(frozen=True)
class Linear(Leaf):
    """A layer with weights: a matrix product with what it gathers of its input.

    Attributes:
        tensor: what the table calls its output.
        scale: factor of the weights, as the init draws them.
        biased: whether it has the biases that the init draws.
        standardized: whether each unit's weights lose their mean and get the second moment of all
            (weight standardization, Qiao et al. 2019, arXiv:1903.10520).
    """

    kind: ClassVar[str] = "feedforward"
    """The kind of layer that it is by itself."""

    tensor: str = field(default="preactivation", kw_only=True)
    scale: float = field(default=1.0, kw_only=True)
    biased: bool = field(default=True, kw_only=True)
    standardized: bool = field(default=False, kw_only=True)

    @property
    def number(self) -> int:
        """Its place among the network's products, from 1."""
        return self.outputs.products

    @property
    @abstractmethod
    def weight(self) -> tuple[int, ...]:
        """Shape of the weight: (out, in[, kernel, kernel])."""

    @property
    def copied(self) -> int:
        """Entries that `gather` copies of one sample."""
        return 0

    @abstractmethod
    def gather(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """The patches that the weight's rows are multiplied with.

        Args:
            x: the input, ([seeds,] units, positions x samples), or the same entries in the same
                order.
            out: flat memory to use, of `copied` x samples entries or more.

        Returns:
            ([seeds,] inputs of a unit, output positions x samples).
        """

    @abstractmethod
    def folded(self, columns: Tensor) -> Tensor:
        """The transpose of `gather`: gradients of patches, summed to the gradient of the input."""

    def draw(
        self, init: Init, activation: Activation, generators: Callable[[int], Generator]
    ) -> dict[int, Weights]:
        """The layer's weight and bias, drawn from its own generator."""
        weight, bias = init.sample(self.weight, generators(self.number), self.read(activation))
        matrix = standardized(weight.flatten(1)) if self.standardized else weight.flatten(1)
        matrix = matrix if self.scale == 1 else matrix * self.scale
        biased = self.biased and bias.any()
        return {self.number: Weights(matrix, bias[:, None] if biased else None)}

    def read(self, activation: Activation) -> Activation:
        """The activation whose output the layer reads: the one in use, or the identity."""
        return activation if self.reads.activated else activation.catalog["identity"]

    def law(self, init: Init, activation: Activation) -> Law | None:
        """The law of the weights; None where the init declares none.

        Raises:
            ValueError: the activation has no gain that the init needs.
        """
        read = self.read(activation)
        sigma_w2, sigma_b2 = init.sigma_w2(self.weight, read), init.sigma_b2(self.weight, read)
        sigma_b2 = sigma_b2 if self.biased else 0.0
        if init.fitted or math.isnan(sigma_w2 + sigma_b2):
            return None
        share = self.weight[0] / math.prod(self.weight[1:])
        return Law(
            sigma_w2 * self.scale**2,
            sigma_b2,
            uniform_bias=sigma_b2 if init.uniform_bias else 0.0,
            radial=max(0.0, 1 - share) if init.orthogonal else 1.0,
            centred=self.standardized,
        )

    def forward(self, x: Tensor, at: Run) -> Tensor:
        """The weights times the patches."""
        h = at.applied(self, x)
        at.emit(self, "forward", h)
        return h

    def backward(self, gradient: Tensor, at: Run, *, inward: bool = True) -> Tensor:
        """Transposed weights times the gradient, summed where patches overlap."""
        at.emit(self, "backward", gradient)
        return self.folded(at.transposed(self, gradient)) if inward else gradient

    def expect(self, state: State, at: Expectation) -> State:
        """The length map's linear part, position by position."""
        h = self.seen(state).through(at.law(self), self.outputs.units)
        at.emit(self, h)
        return h

    def pull(self, cotangent: Cotangent, at: Expectation, *, inward: bool = True) -> Cotangent:
        """Squares of gradients through transposed weights."""
        at.emit_gradient(self, cotangent)
        return self.heard(cotangent, at.law(self)) if inward else cotangent

    @abstractmethod
    def seen(self, state: State) -> State:
        """The state that a position's units see: a mean over what they gather."""

    @abstractmethod
    def heard(self, cotangent: Cotangent, law: Law) -> Cotangent:
        """The cotangent of the input: what every entry hears from the units that see it."""


def standardized(matrix: Tensor) -> Tensor:
    """Rows less their mean, each of the second moment of the whole matrix; zeros stay zeros."""
    centred = matrix - matrix.mean(1, keepdim=True)
    size = centred.square().mean(1, keepdim=True).sqrt()
    return centred * (matrix.square().mean().sqrt() / size.where(size > 0, size.new_ones(())))
