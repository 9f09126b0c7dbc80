"""What every step of a network is: how it draws, runs, goes back and predicts.

A network is blocks that are folded over a signal: forward over a tile of samples, backward over its
gradient, and likewise over what mean-field theory knows of both. neural-tangents' `stax` (Novak et
al. 2020, arXiv:1912.02803) is the example. Tensors are ([seeds,] units, entries), entries being
positions x samples with the samples contiguous, so that a statistic of a unit reads contiguous
memory.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, Self

from torch import Generator, Tensor

from initstats.activations import Activation
from initstats.inits import Init
from initstats.theory.state import Activated, Cotangent, Law, State

Direction = Literal["forward", "backward"]
Place = tuple[int, str, str]
"""Layer, tensor and direction: where in a network a row of the table belongs."""


class Signal(NamedTuple):
    """What is known of a tensor before anything runs.

    Attributes:
        units: units of a layer, channels of an image, features of a flat sample.
        plane: height and width of an image; None where a unit has no positions.
        layer: how many layers with weights it has passed.
        activated: whether an activation made it, which the next layer then reads.
    """

    units: int
    plane: tuple[int, int] | None = None
    layer: int = 0
    activated: bool = False

    @property
    def positions(self) -> int:
        """Positions of a unit: 1 where there is no plane."""
        return math.prod(self.plane or (1, 1))

    @property
    def size(self) -> int:
        """Entries of one sample: units x positions."""
        return self.units * self.positions


class Weights(NamedTuple):
    """A layer's weight as a matrix (units, inputs), and its bias (units, 1), None where all are 0.

    Those of several seeds have an axis of seeds before.
    """

    matrix: Tensor
    bias: Tensor | None


class Run(Protocol):
    """What a block is handed while a tile of samples goes through it under one activation."""

    def gathered(self, block: Linear, x: Tensor) -> Tensor:
        """The block's patches of x, in memory that the run provides."""

    def applied(self, block: Linear, patches: Tensor) -> Tensor:
        """Pre-activations ([seeds,] units, entries): weights times patches, plus biases."""

    def transposed(self, block: Linear, delta: Tensor) -> Tensor:
        """Gradient of the patches: transposed weights times the gradient of pre-activations."""

    def activated(self, h: Tensor) -> Tensor:
        """The activation of h, in memory that the next activation may overwrite; h stays."""

    def pulled_back(self, gradient: Tensor, h: Tensor) -> Tensor:
        """The gradient with respect to h, of that with respect to the activation of h."""

    def emit(self, block: Leaf, direction: Direction, x: Tensor) -> None:
        """Measure a tensor, or its gradient."""

    def keep(self, x: Tensor) -> None:
        """Remember a tensor for the way back; the last that is kept is the first that is taken."""

    def kept(self) -> Tensor:
        """The last tensor that was kept and not taken yet."""


class Expectation(Protocol):
    """What a block is handed while theory goes through it under one init and activation."""

    activation: Activation

    def law(self, block: Linear) -> Law:
        """The law of the block's weights; raises where the init does not declare one."""

    def emit(self, block: Leaf, state: State) -> None:
        """Take what theory says of a tensor."""

    def emit_gradient(self, block: Leaf, cotangent: Cotangent) -> None:
        """Take what theory says of its gradient."""

    def keep(self, state: Activated) -> None:
        """Remember a state for the way back, as `Run.keep`."""

    def kept(self) -> Activated:
        """The last state that was kept and not taken yet."""


@dataclass(frozen=True)
class Block(ABC):
    """A step of a network, or several.

    Written without its input, ``Dense(50)``, it is a plan; `on` puts it behind a signal.

    Attributes:
        inputs: what it reads; None in a plan.
    """

    inputs: Signal | None = field(default=None, kw_only=True)

    @property
    def reads(self) -> Signal:
        """What it reads.

        Raises:
            ValueError: it is a plan.
        """
        if self.inputs is None:
            raise ValueError(f"{self} is a plan: put it behind a signal with on(...)")
        return self.inputs

    @abstractmethod
    def on(self, inputs: Signal) -> Self:
        """The same block behind a signal.

        Raises:
            ValueError: it cannot read that.
        """

    @property
    @abstractmethod
    def outputs(self) -> Signal:
        """What it gives."""

    @abstractmethod
    def leaves(self) -> Iterator[Leaf]:
        """The blocks that emit a tensor, in the order in which they run."""

    def draw(
        self, init: Init, activation: Activation, generators: Callable[[int], Generator]
    ) -> dict[int, Weights]:
        """The weights of every layer, by its number, each drawn from its own generator.

        Args:
            init: how.
            activation: the one in use; a layer's draw is told which activation it reads.
            generators: of a layer, by its number.
        """
        layers = (leaf for leaf in self.leaves() if isinstance(leaf, Linear))
        return {layer.layer: layer.drawn(init, activation, generators) for layer in layers}

    @abstractmethod
    def forward(self, x: Tensor, at: Run) -> Tensor:
        """A tile's way through; every tensor on it is emitted."""

    @abstractmethod
    def backward(self, gradient: Tensor, at: Run, *, inward: bool = True) -> Tensor:
        """A gradient's way back; every gradient on it is emitted.

        Args:
            gradient: with respect to what the block gave.
            at: the run that went forward.
            inward: whether the gradient with respect to the input is wanted; if not, what is
                returned means nothing.
        """

    @abstractmethod
    def expect(self, state: State, at: Expectation) -> State:
        """As `forward`, of what theory knows of a signal."""

    @abstractmethod
    def pull(self, cotangent: Cotangent, at: Expectation, *, inward: bool = True) -> Cotangent:
        """As `backward`, of what theory knows of a gradient."""


@dataclass(frozen=True)
class Leaf(Block):
    """A block that emits one tensor, its output."""

    @property
    @abstractmethod
    def tensor(self) -> str:
        """What the table calls its output."""

    @property
    def layer(self) -> int:
        """The layer that its output belongs to, from 1."""
        return self.outputs.layer

    def leaves(self) -> Iterator[Leaf]:
        """Itself."""
        yield self


@dataclass(frozen=True)
class Linear(Leaf):
    """A layer with weights: a matrix product with what it gathers of its input."""

    @property
    def tensor(self) -> str:
        """A linear layer gives pre-activations."""
        return "preactivation"

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
        """What the weight's rows are multiplied with.

        Args:
            x: the input, ([seeds,] units, positions x samples), or what has the same entries in
                the same order.
            out: flat memory of `copied` x samples entries or more, whatever it holds.

        Returns:
            ([seeds,] inputs of a unit, output positions x samples).
        """

    @abstractmethod
    def folded(self, columns: Tensor) -> Tensor:
        """The transpose of `gather`: gradients of what was gathered, summed to the input's."""

    def drawn(
        self, init: Init, activation: Activation, generators: Callable[[int], Generator]
    ) -> Weights:
        """Weights of this layer; see `draw`."""
        weight, bias = init.sample(self.weight, generators(self.layer), self.read(activation))
        return Weights(weight.flatten(1), bias[:, None] if bias.any() else None)

    def read(self, activation: Activation) -> Activation:
        """The activation that the layer reads: the one in use, or the identity in front of it."""
        return activation if self.reads.activated else activation.catalog["identity"]

    def law(self, init: Init, activation: Activation) -> Law | None:
        """The law of the weights; None where the init declares none.

        Raises:
            ValueError: the activation has no such gain.
        """
        read = self.read(activation)
        sigma_w2, sigma_b2 = init.sigma_w2(self.weight, read), init.sigma_b2(self.weight, read)
        if init.fitted or math.isnan(sigma_w2 + sigma_b2):
            return None
        share = self.weight[0] / math.prod(self.weight[1:])
        return Law(
            sigma_w2,
            sigma_b2,
            uniform_bias=sigma_b2 if init.uniform_bias else 0.0,
            radial=max(0.0, 1 - share) if init.orthogonal else 1.0,
        )

    def forward(self, x: Tensor, at: Run) -> Tensor:
        """Weights times what is gathered."""
        h = at.applied(self, at.gathered(self, x))
        at.emit(self, "forward", h)
        return h

    def backward(self, gradient: Tensor, at: Run, *, inward: bool = True) -> Tensor:
        """Transposed weights times the gradient, summed where patches overlap."""
        at.emit(self, "backward", gradient)
        return self.folded(at.transposed(self, gradient)) if inward else gradient

    def expect(self, state: State, at: Expectation) -> State:
        """The length map's linear part, position by position."""
        law = at.law(self)
        h = self.seen(state).through(law, self.outputs.units)
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
