"""The passes of a network over tiles of samples, forward and backward, measured on the way."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initstats.activations import Activation
from initstats.data import Split
from initstats.draws import generator_for
from initstats.moments import Moments
from initstats.networks import Activate, Block, Direction, Leaf, Linear, Place, Serial
from initstats.networks.block import Ratio
from initstats.stack.noted import Noted
from initstats.stack.products import product as multiplied
from initstats.stack.settings import Settings
from initstats.stack.weights import ByLayer, applied

ALIGNED = 16
"""Tiles hold a multiple of so many samples. Rows stay aligned; and as torch draws normal numbers in
groups of sixteen, draws for several tiles are those for all samples at once."""


class Result(NamedTuple):
    """One cell's numbers, a row for each of the network's places.

    `statistics` (rows, statistics) float64, columns in the order of `STATISTICS`; `numbers`
    (rows, numbers), what the network's blocks noted, NaN where nothing; `histograms` (rows, bins)
    int64.
    """

    statistics: NDArray[np.float64]
    numbers: NDArray[np.float64]
    histograms: NDArray[np.int64]


def tile_samples(samples: int, network: Serial, settings: Settings) -> int:
    """Number of samples in a tile, a multiple of `ALIGNED` and of what must be together; all tiles
    are nearly equal.
    """
    layers, leaves = network.layers, [*network.leaves()]
    sizes = sum(layer.outputs.size for layer in layers) + sum(leaf.held for leaf in leaves)
    step = math.lcm(ALIGNED, *(leaf.together for leaf in leaves))
    made = (sum(layer.copied for layer in layers) + sizes) / len(layers)
    # images may be larger than what is made of them; for the way back, pre-activations are kept
    size = max(made, network.reads.size / 4, sizes * settings.backward / 16)
    tiles = math.ceil(samples * size / settings.tile)
    return max(step, math.ceil(samples / tiles / step) * step)


class Passes:
    """Draws of weights under several activations: their accumulators, and the passes.

    Tensors are (units, entries); with several seeds at once, (seeds, units, entries). `weights` are
    those of all seeds, for each activation.
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
        first = (layer.number for layer in self.head.layers)
        self.shared = all(own[layer] is weights[0][layer] for layer in first for own in weights)
        self.generators = [generator_for(seed, "cotangent") for seed in seeds]
        self.samples = tile_samples(settings.samples, network, settings)
        activated = [leaf for leaf in network.leaves() if isinstance(leaf, Activate)]
        self.buffer, self.columns = (
            torch.empty(entries * self.samples * self.seeds, **settings.place)
            for entries in (
                max((leaf.outputs.size for leaf in activated), default=0),
                max((layer.copied for layer in network.layers[1:]), default=0),
            )
        )
        self.noted = Noted(network.numbers)
        self.chances: dict[tuple[object, ...], list[torch.Generator]] = {}
        self.draws = list(seeds)
        self._give_slots()

    def _give_slots(self) -> None:
        """Give each place and activation a slot.

        Tensors of as many units share an accumulator, which is read off in one go. Places that
        activations share have one slot.
        """
        measured = [leaf for leaf in self.network.leaves() if leaf.tensor]
        units = {(leaf.layer, leaf.tensor): leaf.outputs.units for leaf in measured}
        common = {(leaf.layer, leaf.tensor) for leaf in self.head.leaves() if self.shared}
        self.places = self.network.places(backward=self.settings.backward)
        self.slots: dict[tuple[Place, int], tuple[int, int]] = {}
        counts = dict.fromkeys(units.values(), 0)
        for place in self.places:
            size, shared = units[place[:2]], place[:2] in common and place[2] == "forward"
            for index in range(len(self.activations)):
                self.slots[place, index] = size, counts[size] + (0 if shared else index)
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

    def run(self, split: Split) -> None:
        """Run all samples under every activation."""
        for start in range(0, len(split), self.samples):
            stop = min(start + self.samples, len(split))
            self._add_tile(split.tile(start, stop).to(**self.settings.place), stop - start)

    def results(self, seeds: Sequence[int]) -> Iterator[Result]:
        """The numbers so far: all activations of a seed, then the next seed.

        Args:
            seeds: the seeds to read, by their place in the pass.
        """
        statistics = {size: moments.statistics() for size, moments in self.moments.items()}
        histograms = {
            size: moments.histogram.cpu().numpy() for size, moments in self.moments.items()
        }

        def rows(tables: dict[int, NDArray[Any]], seed: int, index: int) -> NDArray[Any]:
            slots = [self.slots[place, index] for place in self.places]
            return np.stack([tables[size][slot * self.seeds + seed] for size, slot in slots])

        def noted(seed: int, index: int) -> NDArray[np.float64]:
            slots = [self.slots[place, index] for place in self.places]
            return np.stack([self.noted.row(slot, seed) for slot in slots])

        return (
            Result(rows(statistics, *of), noted(*of), rows(histograms, *of))
            for of in product(seeds, range(len(self.activations)))
        )

    def measure(self, place: Place, index: int, x: Tensor) -> None:
        """Add a tile to a place's statistics under an activation."""
        size, slot = self.slots[place, index]
        if self.seeds > 1:
            self.moments[size].add(slice(slot * self.seeds, (slot + 1) * self.seeds), x)
        else:
            self.moments[size].add(slot, x)

    def mask(self, purpose: tuple[object, ...], sizes: tuple[int, int, int], keep: float) -> Tensor:
        """The next samples' zeros and ones for a purpose, as `Run` has them.

        A sample's part depends on its seed and number alone.
        """
        if purpose not in self.chances:
            self.chances[purpose] = [generator_for(seed, *purpose) for seed in self.draws]
        units, positions, samples = sizes
        drawn = math.ceil(samples / ALIGNED) * ALIGNED
        masks = [
            (torch.rand(drawn, units * positions, generator=g, dtype=torch.float32) < keep)[
                :samples
            ]
            for g in self.chances[purpose]
        ]
        whole = torch.stack([mask.T.reshape(units, -1) for mask in masks])
        return (whole if self.seeds > 1 else whole[0]).to(**self.settings.place)

    def _add_tile(self, x: Tensor, samples: int) -> None:
        """Run a tile x of (features, samples) forward and backward under every activation."""
        cotangent = self._cotangent(samples) if self.settings.backward else None
        gathered: dict[int, Tensor] = {}
        masks: dict[tuple[object, ...], Tensor] = {}
        shared: list[Tensor] = []
        for index, activation in enumerate(self.activations):
            tape: deque[Tensor] = deque(maxlen=None if self.settings.backward else 0)
            way = _Way(self, index, activation, self.weights[index], x, gathered, masks, tape)
            if index == 0 or not self.shared:
                h = self.head.forward(x, way)
                shared = [*tape]
            else:
                tape.extend(shared)
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


@dataclass
class _Way:
    """A `Run` that measures: one tile's way through a network under one activation.

    Attributes:
        passes: lends its memory and accumulators.
        index: the number of the activation.
        activation, weights: those in use.
        tile: what the network reads; its patches are gathered once for all activations.
        gathered_tile: those patches, by layer.
        masks: drawn for the tile, by what they are for; the same ones for all activations.
        tape: as in `Run`; it keeps nothing if no way back follows.
    """

    passes: Passes
    index: int
    activation: Activation
    weights: ByLayer
    tile: Tensor
    gathered_tile: dict[int, Tensor]
    masks: dict[tuple[object, ...], Tensor]
    tape: deque[Tensor]

    def weight(self, number: int) -> Tensor:
        return self.weights[number].matrix

    def mask(self, block: Block, sizes: tuple[int, int, int], keep: float) -> Tensor:
        purpose = type(block).__name__, block.reads.layer, block.reads.products
        if purpose not in self.masks:
            self.masks[purpose] = self.passes.mask(purpose, sizes, keep)
        return self.masks[purpose].clone()

    def applied(self, block: Linear, x: Tensor) -> Tensor:
        if x is not self.tile:
            patches = block.gather(x, self.passes.columns)
        elif block.number in self.gathered_tile:
            patches = self.gathered_tile[block.number]
        else:
            patches = self.gathered_tile[block.number] = block.gather(x)
        return applied(self.weights[block.number], patches, by=self.passes.settings.product)

    def transposed(self, block: Linear, gradient: Tensor) -> Tensor:
        matrix = self.weights[block.number].matrix
        return multiplied(self.passes.settings.product, matrix.mT, gradient)

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

    def note(self, block: Leaf, direction: Direction, **ratios: Ratio) -> None:
        place = block.layer, block.tensor, direction
        self.passes.noted.add(self.passes.slots[place, self.index], ratios)

    def _memory(self, like: Tensor) -> Tensor:
        return self.passes.buffer[: like.numel()].view(like.shape)
