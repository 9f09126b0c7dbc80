"""The passes of a stack over tiles of samples, forward and backward, measured on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initstats.activations import Activation
from initstats.data import Split
from initstats.moments import Moments
from initstats.stack.layers import Layer
from initstats.stack.products import product as multiplied
from initstats.stack.settings import Settings
from initstats.stack.weights import Weights, generator_for

Scalar = TypeVar("Scalar", bound=np.generic)

ALIGNED = 16
"""Tiles hold a multiple of so many samples: rows stay aligned, and torch draws normal numbers by
sixteens, so that draws for several tiles are those for all samples at once."""


class Result(NamedTuple):
    """One cell's numbers, a row for each of `row_keys`.

    `statistics` (rows, statistics) float64, columns in the order of `STATISTICS`;
    `histograms` (rows, bins) int64.
    """

    statistics: NDArray[np.float64]
    histograms: NDArray[np.int64]


def tile_samples(samples: int, layers: Sequence[Layer], settings: Settings) -> int:
    """Samples a tile: of nearly equal tiles, a multiple of `ALIGNED`."""
    made = sum(layer.copied + layer.size for layer in layers) / len(layers)
    # images may be larger than what is made of them; going backward, all pre-activations are kept
    kept = sum(layer.size for layer in layers) * settings.backward
    size = max(made, layers[0].features / 4, kept / 16)
    tiles = math.ceil(samples * size / settings.tile)
    return max(ALIGNED, math.ceil(samples / tiles / ALIGNED) * ALIGNED)


class Passes:
    """Draws of weights under several activations: their accumulators, and the passes.

    Tensors are (units, entries); with several seeds at once, (seeds, units, entries).

    Args:
        layers, settings: as in `run_stack`.
        activations: one or more.
        weights: of each activation; of all seeds.
        seeds: as many as share a pass.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        activations: Sequence[Activation],
        weights: Sequence[list[Weights]],
        seeds: Sequence[int],
        settings: Settings,
    ) -> None:
        self.layers, self.activations, self.weights = layers, activations, weights
        self.seeds, self.settings = len(seeds), settings
        self.shared = all(own is weights[0] for own in weights)
        self.generators = [generator_for(seed, "cotangent") for seed in seeds]
        self.samples = tile_samples(settings.samples, layers, settings)
        self.buffer, self.columns = (
            torch.empty(entries * self.samples * self.seeds, **self.settings.place)
            for entries in (
                max(layer.size for layer in layers),
                max((layer.copied for layer in layers[1:]), default=0),
            )
        )
        # layers of as many units share an accumulator: it is read off in one go
        slots = dict.fromkeys((layer.units for layer in layers), 0)
        self.first = []
        for layer in layers:
            self.first.append(slots[layer.units])
            slots[layer.units] += len(activations) * len(settings.kinds)
        self.moments = {
            units: Moments(
                count * self.seeds,
                units,
                every=settings.histogram_every,
                kernels=settings.kernels,
                device=settings.device,
            )
            for units, count in slots.items()
        }

    def run(self, split: Split) -> None:
        """Every activation over all samples."""
        for start in range(0, len(split), self.samples):
            stop = min(start + self.samples, len(split))
            self._add_tile(split.tile(start, stop).to(**self.settings.place), stop - start)

    def results(self, seeds: Sequence[int]) -> Iterator[Result]:
        """The numbers so far, one result a seed (by place) and activation: a seed after another."""
        statistics = {units: moments.statistics() for units, moments in self.moments.items()}
        histograms = {
            units: moments.histogram.cpu().numpy() for units, moments in self.moments.items()
        }

        def rows(tables: dict[int, NDArray[Scalar]], seed: int, index: int) -> NDArray[Scalar]:
            own = [
                [slot * self.seeds + seed for slot in self._slots(number, index)]
                for number in range(len(self.layers))
            ]
            return np.concatenate(
                [tables[layer.units][slots] for layer, slots in zip(self.layers, own, strict=True)]
            )

        return (
            Result(rows(statistics, *of), rows(histograms, *of))
            for of in product(seeds, range(len(self.activations)))
        )

    def _add_tile(self, x: Tensor, samples: int) -> None:
        """Every activation, forward and backward, over a tile x of (features, samples)."""
        cotangent = self._cotangent(samples) if self.settings.backward else None
        patches = self.layers[0].patches(x)
        for index, activation in enumerate(self.activations):
            if index == 0 or not self.shared:
                h = self.weights[index][0].applied(patches, by=self.settings.product)
                self._measure(0, index, 0, h)
            seen = self._forward(index, activation, h)
            if cotangent is not None:
                self._backward(index, activation, seen, cotangent)

    def _forward(self, index: int, activation: Activation, h: Tensor) -> list[Tensor]:
        """Measure forward from the first pre-activation; all of them, where backward needs them."""
        seen, a = [], h
        for number, layer in enumerate(self.layers):
            if number:
                patches = layer.patches(a, self.columns)
                h = self.weights[index][number].applied(patches, by=self.settings.product)
                self._measure(number, index, 0, h)
            if self.settings.backward:
                seen.append(h)
            a = _activate(activation, h, self._buffer(h))
            self._measure(number, index, 1, a)
        return seen

    def _backward(
        self, index: int, activation: Activation, seen: list[Tensor], cotangent: Tensor
    ) -> None:
        """Measure backward from the gradient of the last activation."""
        gradient = cotangent
        for number in reversed(range(len(self.layers))):
            self._measure(number, index, 3, gradient)
            h = seen.pop()
            delta = _pulled_back(activation, gradient, h, self._buffer(h))
            self._measure(number, index, 2, delta)
            if number:
                transposed = self.weights[index][number].matrix.mT
                columns = multiplied(self.settings.product, transposed, delta)
                gradient = self.layers[number].folded(columns)

    def _measure(self, number: int, index: int, kind: int, x: Tensor) -> None:
        slot, moments = self._slots(number, index)[kind], self.moments[self.layers[number].units]
        if self.seeds > 1:
            moments.add(slice(slot * self.seeds, (slot + 1) * self.seeds), x)
        else:
            moments.add(slot, x)

    def _slots(self, number: int, index: int) -> list[int]:
        """Where a layer's rows under an activation are kept; a shared one is kept once."""
        kinds = len(self.settings.kinds)
        first = self.first[number] + kinds * index
        slots = list(range(first, first + kinds))
        if number == 0 and self.shared:
            slots[0] = 0
        return slots

    def _buffer(self, like: Tensor) -> Tensor:
        return self.buffer[: like.numel()].view(like.shape)

    def _cotangent(self, samples: int) -> Tensor:
        """A unit-normal gradient of the last activation, the same under every activation.

        A sample's part depends on its seed and number alone.
        """
        last, drawn = self.layers[-1], math.ceil(samples / ALIGNED) * ALIGNED
        shape = (drawn, last.size)
        by_sample = [torch.randn(shape, generator=g, dtype=torch.float32) for g in self.generators]
        whole = torch.stack([x[:samples].T.reshape(last.units, -1) for x in by_sample])
        return (whole if self.seeds > 1 else whole[0]).to(**self.settings.place)


def _activate(activation: Activation, h: Tensor, out: Tensor) -> Tensor:
    """The activation of h, in `out` where it can write there; h itself stays as it is."""
    if activation.out_function is not None:
        activation.out_function(h, out)
        return out
    version = h._version
    a = activation(h)
    if h._version != version:
        raise ValueError(
            f"activation {activation.name!r} changed its input in place: return a new tensor"
        )
    return a.contiguous()


def _pulled_back(activation: Activation, gradient: Tensor, h: Tensor, out: Tensor) -> Tensor:
    """The gradient with respect to h, of that with respect to the activation of h."""
    if activation.out_backward is not None:
        activation.out_backward(gradient, h, out)
        return out
    return torch.mul(activation.derivative(h), gradient, out=out)
