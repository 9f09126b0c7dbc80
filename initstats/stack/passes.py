"""The passes of a network over tiles of samples, forward and backward, measured on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initstats.activations import Activation
from initstats.data import Split
from initstats.moments import Moments
from initstats.networks import Direction, Leaf, Linear, Place, Serial
from initstats.stack.products import product as multiplied
from initstats.stack.settings import Settings
from initstats.stack.weights import ByLayer, applied, generator_for

Scalar = TypeVar("Scalar", bound=np.generic)

ALIGNED = 16
"""Tiles hold a multiple of so many samples: rows stay aligned, and torch draws normal numbers by
sixteens, so that draws for several tiles are those for all samples at once."""


class Result(NamedTuple):
    """One cell's numbers, a row for each of the network's places.

    `statistics` (rows, statistics) float64, columns in the order of `STATISTICS`;
    `histograms` (rows, bins) int64.
    """

    statistics: NDArray[np.float64]
    histograms: NDArray[np.int64]


def tile_samples(samples: int, network: Serial, settings: Settings) -> int:
    """Samples of a tile: of nearly equal tiles, a multiple of `ALIGNED`."""
    layers = network.layers
    sizes = sum(layer.outputs.size for layer in layers)
    made = (sum(layer.copied for layer in layers) + sizes) / len(layers)
    # images may be larger than what is made of them; going backward, all pre-activations are kept
    size = max(made, network.reads.size / 4, sizes * settings.backward / 16)
    tiles = math.ceil(samples * size / settings.tile)
    return max(ALIGNED, math.ceil(samples / tiles / ALIGNED) * ALIGNED)


class Passes:
    """Draws of weights under several activations: their accumulators, and the passes.

    Tensors are (units, entries); with several seeds at once, (seeds, units, entries).

    Args:
        network: the blocks, placed behind the samples.
        activations: one or more.
        weights: of each activation; of all seeds.
        seeds: as many as share a pass.
        settings: the run's.
    """

    def __init__(
        self,
        network: Serial,
        activations: Sequence[Activation],
        weights: Sequence[ByLayer],
        seeds: Sequence[int],
        settings: Settings,
    ) -> None:
        self.network, self.activations, self.weights = network, activations, weights
        self.seeds, self.settings = len(seeds), settings
        self.head, self.tail = network.split()
        first = (layer.layer for layer in self.head.layers)
        self.shared = all(own[layer] is weights[0][layer] for layer in first for own in weights)
        self.generators = [generator_for(seed, "cotangent") for seed in seeds]
        self.samples = tile_samples(settings.samples, network, settings)
        self.buffer, self.columns = (
            torch.empty(entries * self.samples * self.seeds, **settings.place)
            for entries in (
                max(leaf.outputs.size for leaf in network.leaves()),
                max((layer.copied for layer in network.layers[1:]), default=0),
            )
        )
        self._give_slots()

    def _give_slots(self) -> None:
        """A slot for each place and activation; tensors of as many units share an accumulator.

        It is then read off in one go.
        """
        units = {(leaf.layer, leaf.tensor): leaf.outputs.units for leaf in self.network.leaves()}
        self.slots: dict[Place, tuple[int, int]] = {}
        counts = dict.fromkeys(units.values(), 0)
        for place in self.network.places(backward=self.settings.backward):
            size = units[place[:2]]
            self.slots[place] = size, counts[size]
            counts[size] += len(self.activations)
        self.moments = {
            size: Moments(
                count * self.seeds,
                size,
                every=self.settings.histogram_every,
                kernels=self.settings.kernels,
                device=self.settings.device,
            )
            for size, count in counts.items()
        }
        common = {(leaf.layer, leaf.tensor, "forward") for leaf in self.head.leaves()}
        self.common = common if self.shared else set()

    def run(self, split: Split) -> None:
        """Every activation over all samples."""
        for start in range(0, len(split), self.samples):
            stop = min(start + self.samples, len(split))
            self._add_tile(split.tile(start, stop).to(**self.settings.place), stop - start)

    def results(self, seeds: Sequence[int]) -> Iterator[Result]:
        """The numbers so far, one result for each seed (by its place in the pass) and activation.

        All activations of a seed come before the next seed.
        """
        statistics = {size: moments.statistics() for size, moments in self.moments.items()}
        histograms = {
            size: moments.histogram.cpu().numpy() for size, moments in self.moments.items()
        }

        def rows(tables: dict[int, NDArray[Scalar]], seed: int, index: int) -> NDArray[Scalar]:
            slots = [self.slot(place, index) for place in self.slots]
            return np.stack([tables[size][slot * self.seeds + seed] for size, slot in slots])

        return (
            Result(rows(statistics, *of), rows(histograms, *of))
            for of in product(seeds, range(len(self.activations)))
        )

    def slot(self, place: Place, index: int) -> tuple[int, int]:
        """The accumulator (by its units) and the slot of a place under an activation."""
        size, first = self.slots[place]
        return size, first if place in self.common else first + index

    def measure(self, place: Place, index: int, x: Tensor) -> None:
        """Add a tile to a place's statistics under an activation."""
        size, slot = self.slot(place, index)
        if self.seeds > 1:
            self.moments[size].add(slice(slot * self.seeds, (slot + 1) * self.seeds), x)
        else:
            self.moments[size].add(slot, x)

    def _add_tile(self, x: Tensor, samples: int) -> None:
        """Every activation, forward and backward, over a tile x of (features, samples)."""
        cotangent = self._cotangent(samples) if self.settings.backward else None
        gathered: dict[int, Tensor] = {}
        for index, activation in enumerate(self.activations):
            way = _Way(self, index, activation, self.weights[index], x, gathered)
            if index == 0 or not self.shared:
                h = self.head.forward(x, way)
            self.tail.forward(h, way)
            if cotangent is not None:
                self.network.backward(cotangent, way, inward=False)

    def _cotangent(self, samples: int) -> Tensor:
        """A unit-normal gradient of the network's output, the same under every activation.

        A sample's part depends on its seed and number alone.
        """
        last, drawn = self.network.outputs, math.ceil(samples / ALIGNED) * ALIGNED
        shape = (drawn, last.size)
        by_sample = [torch.randn(shape, generator=g, dtype=torch.float32) for g in self.generators]
        whole = torch.stack([x[:samples].T.reshape(last.units, -1) for x in by_sample])
        return (whole if self.seeds > 1 else whole[0]).to(**self.settings.place)


@dataclass(frozen=True)
class _Way:
    """One tile's way through a network under one activation: a `Run` that measures.

    Attributes:
        passes: whose memory and accumulators it uses.
        index: of the activation.
        activation, weights: in use.
        tile: what the network reads; its patches are gathered once for all activations.
        gathered_tile: those patches, by layer.
        tape: what was kept for the way back.
    """

    passes: Passes
    index: int
    activation: Activation
    weights: ByLayer
    tile: Tensor
    gathered_tile: dict[int, Tensor]
    tape: list[Tensor] = field(default_factory=list)

    def gathered(self, block: Linear, x: Tensor) -> Tensor:
        if x is not self.tile:
            return block.gather(x, self.passes.columns)
        if block.layer not in self.gathered_tile:
            self.gathered_tile[block.layer] = block.gather(x)
        return self.gathered_tile[block.layer]

    def applied(self, block: Linear, patches: Tensor) -> Tensor:
        return applied(self.weights[block.layer], patches, by=self.passes.settings.product)

    def transposed(self, block: Linear, delta: Tensor) -> Tensor:
        matrix = self.weights[block.layer].matrix
        return multiplied(self.passes.settings.product, matrix.mT, delta)

    def activated(self, h: Tensor) -> Tensor:
        if self.activation.out_function is not None:
            out = self._memory(h)
            self.activation.out_function(h, out)
            return out
        version = h._version
        a = self.activation(h)
        if h._version != version:
            raise ValueError(
                f"activation {self.activation.name!r} changed its input in place: return a new "
                "tensor"
            )
        return a.contiguous()

    def pulled_back(self, gradient: Tensor, h: Tensor) -> Tensor:
        out = self._memory(h)
        if self.activation.out_backward is None:
            return torch.mul(self.activation.derivative(h), gradient, out=out)
        self.activation.out_backward(gradient, h, out)
        return out

    def emit(self, block: Leaf, direction: Direction, x: Tensor) -> None:
        self.passes.measure((block.layer, block.tensor, direction), self.index, x)

    def keep(self, x: Tensor) -> None:
        if self.passes.settings.backward:
            self.tape.append(x)

    def kept(self) -> Tensor:
        return self.tape.pop()

    def _memory(self, like: Tensor) -> Tensor:
        return self.passes.buffer[: like.numel()].view(like.shape)
