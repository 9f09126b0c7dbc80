"""Training by hand: the blocks that a sweep measures, with the gradients of their weights.

A network runs a batch by the same passes as in a sweep; what a pass gathers of its input is kept,
for the gradient of a weight is the gradient of pre-activations times that.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initstats.activations import Activation
from initstats.data import Split
from initstats.networks import Block, Direction, Leaf, Linear, Place, Serial, Weights
from initstats.networks.block import Ratio
from initstats.stack import Settings, measure_weights
from initstats.training.batches import Batch
from initstats.training.chain import Chain, applied, linked
from initstats.training.losses import Loss
from initstats.training.optimizers import Optimizer

Measured = tuple[list[Place], NDArray[np.float64]]
CACHED = 2**21
"""Entries that a part of a batch makes at most, patches included: more would leave the cache."""


class Workspace:
    """The memory in which networks of one architecture run, one after the other.

    What a network computes does not depend on the others, nor on their order.

    Args:
        network: the blocks, with those that end in the outputs.
    """

    def __init__(self, network: Serial) -> None:
        self.network = network
        self.is_chain = linked(network) is not None
        self._chains: dict[int, Chain] = {}
        self._memory: dict[tuple[int, str, int], Tensor] = {}

    def memory(self, place: int, purpose: str, units: int, entries: int) -> Tensor:
        """(units, entries), the same memory for the same arguments."""
        key = (place, purpose, entries)
        if key not in self._memory:
            self._memory[key] = torch.empty(units, entries, dtype=torch.float32)
        return self._memory[key]

    @cached_property
    def entries(self) -> int:
        """How many entries of a sample are made on the way through."""
        layers = self.network.layers
        made = sum(layer.copied + layer.outputs.size for layer in layers)
        return max(1, 2 * made, self.network.reads.size)

    @cached_property
    def largest(self) -> int:
        """How many samples run at a time, so that what they make stays in the cache."""
        return max(16, CACHED // self.entries // 16 * 16)

    def parts(self, samples: int) -> list[slice]:
        """A batch in parts, all but the last of one size."""
        size = min(samples, self.largest)
        return [slice(start, start + size) for start in range(0, samples, size)]

    def chain(self, samples: int) -> Chain | None:
        """The memory of a network that is a chain of layers; None for others."""
        if self.is_chain and samples not in self._chains:
            self._chains[samples] = Chain(self.network, samples)
        return self._chains.get(samples)


@dataclass
class Tile:
    """A part of a batch; what the first layer gathers of it serves every network that runs."""

    x: Tensor
    labels: NDArray[np.int64]
    chain: Chain | None
    gathered: dict[int, Tensor] = field(default_factory=dict)

    @cached_property
    def first(self) -> Tensor:
        """What the first layer of a chain reads."""
        assert self.chain
        return self.chain.gathered(self.x)


def tiles(workspace: Workspace, batch: Batch) -> list[Tile]:
    """The parts of a batch."""
    x, labels = batch
    parts = workspace.parts(len(labels))
    return [
        Tile(
            x if len(parts) == 1 else x[:, part].contiguous(),
            labels[part],
            workspace.chain(len(labels[part])),
        )
        for part in parts
    ]


class HandNet:
    """A network under an activation, with its weights and what the optimizer remembers."""

    def __init__(
        self,
        workspace: Workspace,
        activation: Activation,
        drawn: Mapping[int, Weights],
        optimizer: Optimizer,
        decay: float,
        loss: Loss,
    ) -> None:
        self.workspace, self.activation = workspace, activation
        self.optimizer, self.decay, self.loss = optimizer, decay, loss
        layers = workspace.network.layers
        sizes = [math.prod(layer.weight) + layer.weight[0] for layer in layers]
        self.flat = np.zeros(sum(sizes), np.float32)
        self.gradient = np.zeros_like(self.flat)
        self.states = [np.zeros_like(self.flat) for _ in range(optimizer.states)]
        self.weights, self.slopes = (
            _layered(layers, sizes, torch.from_numpy(flat)) for flat in (self.flat, self.gradient)
        )
        for layer, (matrix, bias) in drawn.items():
            into = self.weights[layer]
            into.matrix.copy_(matrix)
            if bias is not None:
                into.bias.copy_(bias)
        self.steps = 0

    def train(self, batch: list[Tile], rate: float) -> tuple[float, int]:
        """Take a step on a batch; the mean loss before it, and how many were right."""
        samples = sum(len(tile.labels) for tile in batch)
        total, correct = 0.0, 0
        for number, tile in enumerate(batch):
            loss, right, back = self._outputs(tile, 1 / samples, more=number > 0)
            total, correct = total + loss, correct + right
            if not math.isfinite(total):
                return math.nan, correct
            back()
        self.steps += 1
        self.optimizer.update(self.flat, self.gradient, *self.states, self.steps, rate, self.decay)
        return total / samples, correct

    def evaluate(self, batch: list[Tile]) -> tuple[float, int]:
        """The sum of the losses of a batch, and how many are right."""
        total, correct = 0.0, 0
        for tile in batch:
            loss, right, _ = self._outputs(tile, 1.0)
            total, correct = total + loss, correct + right
        return total, correct

    def _outputs(
        self, tile: Tile, share: float, *, more: bool = False
    ) -> tuple[float, int, Callable[[], object]]:
        """The sum of the losses of a tile, how many are right, and what goes back from there.

        Args:
            share: the factor of the gradient.
            more: whether gradients add to those of the batch's part before.
        """
        if chain := tile.chain:
            how = (tile.first, self.activation, self.weights)
            outputs, slope = chain.forward(*how), chain.slope
            back: Callable[[], object] = partial(chain.backward, *how, self.slopes, more=more)
        else:
            way = _Way(self, tile, more=more)
            outputs = self.workspace.network.forward(tile.x, way)
            slope = self.workspace.memory(0, "loss", *outputs.shape)
            back = partial(self.workspace.network.backward, slope, way, inward=False)
        loss, right = self.loss.kernel(outputs.numpy(), tile.labels, share, slope.numpy())
        return loss, right, back

    def statistics(self, split: Split, seed: int) -> Measured:
        """The places and the statistics of all tensors for some samples, as a sweep has them."""
        settings = Settings(len(self.weights), len(split), backward=True).thorough
        weights = {
            number: Weights(own.matrix.contiguous(), own.bias)
            for number, own in self.weights.items()
        }
        places, result = measure_weights(
            self.workspace.network, self.activation, weights, seed, split, settings
        )
        return places, result.statistics


@dataclass
class _Layer:
    """A layer's weight and its bias side by side, (units, inputs + 1), and each; or gradients."""

    joined: Tensor

    def __post_init__(self) -> None:
        self.matrix, self.bias = self.joined[:, :-1], self.joined[:, -1:]


def _layered(layers: list[Linear], sizes: list[int], flat: Tensor) -> dict[int, _Layer]:
    """The parts of flat memory that belong to each layer."""
    found, stop = {}, 0
    for layer, size in zip(layers, sizes, strict=True):
        start, stop = stop, stop + size
        found[layer.number] = _Layer(flat[start:stop].view(layer.weight[0], -1))
    return found


class _Way:
    """A `Run` that keeps what gradients of weights need: one tile's way through a network.

    Args:
        more: whether gradients add to those of the batch's part before.
    """

    def __init__(self, net: HandNet, tile: Tile, *, more: bool = False) -> None:
        self.net, self.tile, self.more = net, tile, more
        self.tape: deque[Tensor] = deque()
        self.patches: dict[int, Tensor] = {}

    def applied(self, block: Linear, x: Tensor) -> Tensor:
        number, entries = block.number, block.outputs.positions * len(self.tile.labels)
        if x is not self.tile.x:
            patches = block.gather(x, self._copied(block))
        elif number in self.tile.gathered:
            patches = self.tile.gathered[number]
        else:
            patches = self.tile.gathered[number] = block.gather(x)
        self.patches[number] = patches
        own, h = self.net.weights[number], self._memory(number, "h", block.weight[0], entries)
        torch.mm(own.matrix, patches, out=h)
        return h.add_(own.bias)

    def transposed(self, block: Linear, gradient: Tensor) -> Tensor:
        matrix = self.net.weights[block.number].matrix
        out = self._memory(block.number, "patches", matrix.shape[1], gradient.shape[1])
        return torch.mm(matrix.mT, gradient, out=out)

    def activated(self, h: Tensor) -> Tensor:
        activation = self.net.activation
        if activation.out_function is None:
            return applied(activation, h).contiguous()
        out = self._memory(len(self.tape), "a", *h.shape)
        activation.out_function(h, out)
        return out

    def pulled_back(self, gradient: Tensor, h: Tensor) -> Tensor:
        activation = self.net.activation
        out = self._memory(len(self.tape) + 1, "slope", *h.shape)
        if activation.out_backward is None:
            return torch.mul(activation.derivative(h), gradient, out=out)
        activation.out_backward(gradient, h, out)
        return out

    def weight(self, number: int) -> Tensor:
        return self.net.weights[number].matrix

    def mask(self, block: Block, sizes: tuple[int, int, int], keep: float) -> Tensor:
        raise NotImplementedError("networks that draw masks are not trained here")

    def note(self, block: Leaf, direction: Direction, **ratios: Ratio) -> None:
        pass

    def emit(self, block: Leaf, direction: Direction, x: Tensor) -> None:
        if direction == "forward" or not isinstance(block, Linear):
            return
        slope, patches = self.net.slopes[block.number], self.patches[block.number]
        if self.more:
            torch.addmm(slope.matrix, x, patches.mT, out=slope.matrix)
            slope.bias.add_(x.sum(1, keepdim=True))
        else:
            torch.mm(x, patches.mT, out=slope.matrix)
            torch.sum(x, 1, keepdim=True, out=slope.bias)

    def _copied(self, block: Linear) -> Tensor | None:
        if not block.copied:
            return None
        return self._memory(block.number, "copied", 1, block.copied * len(self.tile.labels))[0]

    def _memory(self, place: int, purpose: str, units: int, entries: int) -> Tensor:
        return self.net.workspace.memory(place, purpose, units, entries)
