"""Deep stacks of layers, run tile by tile: the statistics of every layer, forward and backward.

The setting is that of Poole et al. (2016). Weights are drawn once and serve all activations, which
also share the first layer's pre-activation; samples stream through in tiles that stay in cache;
layer l's statistics do not depend on how deep the stack goes on.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from initstats.activations import Activation
from initstats.data import Split
from initstats.inits import Init
from initstats.moments import Kernels, Moments
from initstats.stack.layers import NETWORKS, Layer, architecture
from initstats.stack.numerics import exact_numerics

__all__ = [
    "FIT_SAMPLES",
    "NETWORKS",
    "Layer",
    "Result",
    "Settings",
    "Weights",
    "architecture",
    "draw",
    "exact_numerics",
    "generator_for",
    "row_keys",
    "run_stack",
    "tile_samples",
]

Scalar = TypeVar("Scalar", bound=np.generic)

FORWARD = (("preactivation", "forward"), ("activation", "forward"))
BACKWARD = (("preactivation", "backward"), ("activation", "backward"))
FIT_SAMPLES = 256
"""How many training images a data-dependent init is fitted on."""
FIT_ROUNDS, FIT_TOLERANCE = 10, 1e-3


@dataclass(frozen=True)
class Settings:
    """What a run chooses once: with the cell's key, these determine every bit of its numbers.

    Args:
        depth: number of layers.
        samples: how many samples stream through.
        backward: whether gradients are measured too.
        tile: entries (units x positions x samples) that a layer handles at once, on average over
            the layers; 2**17 float32 stay in a second-level cache.
        kernels: which statistics kernels.
        histogram_every: one entry in so many goes into the histogram.
    """

    depth: int
    samples: int
    backward: bool = False
    tile: int = 2**17
    kernels: Kernels = "numba"
    histogram_every: int = 8


class Result(NamedTuple):
    """One cell's numbers, a row for each of `row_keys`.

    `statistics` (rows, statistics) float64, columns in the order of `STATISTICS`;
    `histograms` (rows, bins) int64.
    """

    statistics: NDArray[np.float64]
    histograms: NDArray[np.int64]


class Weights(NamedTuple):
    """A layer's weight as a matrix (units, inputs), and its bias (units, 1), None where all 0."""

    matrix: Tensor
    bias: Tensor | None


def row_keys(settings: Settings) -> list[tuple[int, str, str]]:
    """The (layer, tensor, direction) of each row of a `Result`; layers count from 1."""
    kinds = _kinds(settings)
    return [(layer, *kind) for layer in range(1, settings.depth + 1) for kind in kinds]


def tile_samples(samples: int, layers: Sequence[Layer], settings: Settings) -> int:
    """Samples a tile: of nearly equal tiles, a multiple of 16 so that rows stay aligned."""
    size = sum(layer.size for layer in layers) / len(layers)
    tiles = math.ceil(samples * size / settings.tile)
    return max(16, math.ceil(samples / tiles / 16) * 16)


def generator_for(seed: int, *purpose: object) -> torch.Generator:
    """The generator of a layer's weights, or of another purpose, under a seed.

    It depends on nothing else, so that inits and activations are compared on the same draws.
    """
    text = "/".join(map(str, (seed, *purpose)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def draw(init: Init, activation: Activation, layers: Sequence[Layer], seed: int) -> list[Weights]:
    """The weights of a stack, each layer's from its own generator."""
    drawn = []
    for number, layer in enumerate(layers, 1):
        weight, bias = init.sample(layer.weight, generator_for(seed, number), activation)
        drawn.append(Weights(weight.flatten(1), bias[:, None] if bias.any() else None))
    return drawn


def run_stack(
    network: str,
    init: Init,
    activations: Sequence[Activation],
    width: int,
    seed: int,
    split: Split,
    fit: Split | None,
    settings: Settings,
) -> Iterator[Result]:
    """The statistics of one network, init, width and seed under each activation, in their order.

    A result does not depend on which other activations are asked for. All is measured when this
    returns; results are put together one at a time, since their histograms are large.

    Args:
        network: a name of `NETWORKS`.
        init: how the weights are drawn.
        activations: one or more.
        width: units of a layer; channels of the first convolution.
        seed: names the draw.
        split: the samples, already limited to `settings.samples`.
        fit: the samples that a data-dependent init is fitted on.
        settings: what the run has chosen.

    Raises:
        ValueError: an activation that changes its input; an init that is fitted on data, without
            data to fit on.
    """
    layers = architecture(network, width, settings.depth, split.shape)
    with exact_numerics():
        weights = _weights_by_activation(init, activations, layers, seed, fit)
        run = _Run(layers, activations, weights, seed, settings, len(split))
        for start in range(0, len(split), run.samples):
            stop = min(start + run.samples, len(split))
            run.add_tile(split.tile(start, stop), stop - start)
        return run.results()


def _weights_by_activation(
    init: Init,
    activations: Sequence[Activation],
    layers: Sequence[Layer],
    seed: int,
    fit: Split | None,
) -> list[list[Weights]]:
    """The weights under each activation: the same object where the init does not look at it."""
    if init.fitted:
        if fit is None or not len(fit):
            raise ValueError(f"init {init.name!r} is fitted on training samples; none were given")
        tile = fit.tile(0, len(fit))
        return [
            _fitted(draw(init, activation, layers, seed), activation, layers, tile)
            for activation in activations
        ]
    if init.follows_activation:
        return [draw(init, activation, layers, seed) for activation in activations]
    return [draw(init, activations[0], layers, seed)] * len(activations)


def _fitted(
    drawn: Sequence[Weights], activation: Activation, layers: Sequence[Layer], x: Tensor
) -> list[Weights]:
    """LSUV (Mishkin & Matas 2016): each layer scaled until its pre-activation has std 1.

    A layer whose pre-activation is constant or not finite cannot be scaled, and stays as drawn.
    """
    fitted = []
    for layer, (matrix, bias) in zip(layers, drawn, strict=True):
        patches = layer.patches(x)
        for _ in range(FIT_ROUNDS):
            std = float(_product(Weights(matrix, bias), patches).to(torch.float64).std())
            if abs(std - 1) <= FIT_TOLERANCE or not 0 < std < math.inf:
                break
            matrix = matrix / std
        fitted.append(Weights(matrix, bias))
        x = activation(_product(fitted[-1], patches))
    return fitted


class _Run:
    """One draw of weights under several activations: their accumulators, and the passes.

    Args:
        layers, activations, seed, settings: as in `run_stack`.
        weights: of each activation.
        samples: of the whole run.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        activations: Sequence[Activation],
        weights: Sequence[list[Weights]],
        seed: int,
        settings: Settings,
        samples: int,
    ) -> None:
        self.layers, self.activations, self.weights = layers, activations, weights
        self.seed, self.settings = seed, settings
        self.shared = all(own is weights[0] for own in weights)
        self.samples = tile_samples(samples, layers, settings)
        entries = max(layer.size for layer in layers) * self.samples
        self.buffers = [torch.empty(entries, dtype=torch.float32) for _ in range(3)]
        self.tiles = 0
        self.moments = [
            Moments(
                len(activations) * len(_kinds(settings)),
                layer.units,
                every=settings.histogram_every,
                kernels=settings.kernels,
            )
            for layer in layers
        ]

    def results(self) -> Iterator[Result]:
        """The numbers of all tiles so far, one result an activation."""
        statistics = [moments.statistics() for moments in self.moments]
        histograms = [moments.histogram.numpy() for moments in self.moments]

        def rows(tables: list[NDArray[Scalar]], index: int) -> NDArray[Scalar]:
            return np.concatenate(
                [table[self._slots(number, index)] for number, table in enumerate(tables)]
            )

        return (
            Result(rows(statistics, index), rows(histograms, index))
            for index in range(len(self.activations))
        )

    def add_tile(self, x: Tensor, samples: int) -> None:
        """Every activation, forward and backward, over a tile x of (features, samples)."""
        cotangent = self._cotangent(samples)
        patches = self.layers[0].patches(x)
        for index, activation in enumerate(self.activations):
            if index == 0 or not self.shared:
                h = _product(self.weights[index][0], patches)
                self._measure(0, index, 0, h)
            slopes = self._forward(index, activation, h)
            if cotangent is not None:
                self._backward(index, slopes, cotangent)
        self.tiles += 1

    def _forward(self, index: int, activation: Activation, h: Tensor) -> list[Tensor]:
        """Measure forward from the first pre-activation; the slopes, where backward needs them."""
        slopes, a = [], h
        for number, layer in enumerate(self.layers):
            if number:
                patches = layer.patches(a)
                h = self._buffer(number % 2, layer.units, patches.shape[1])
                _product(self.weights[index][number], patches, out=h)
                self._measure(number, index, 0, h)
            if self.settings.backward:
                slopes.append(_slope(activation, h))
            a = _activate(activation, h, self._buffer(2, *h.shape))
            self._measure(number, index, 1, a)
        return slopes

    def _backward(self, index: int, slopes: Sequence[Tensor], cotangent: Tensor) -> None:
        """Measure backward from the gradient of the last activation."""
        gradient = cotangent
        for number in reversed(range(len(self.layers))):
            self._measure(number, index, 3, gradient)
            delta = slopes[number].mul_(gradient)
            self._measure(number, index, 2, delta)
            if number:
                columns = self.weights[index][number].matrix.T @ delta
                gradient = self.layers[number].folded(columns)

    def _measure(self, number: int, index: int, kind: int, x: Tensor) -> None:
        self.moments[number].add(self._slots(number, index)[kind], x)

    def _slots(self, number: int, index: int) -> list[int]:
        """Where a layer's rows under an activation are kept; a shared one is kept once."""
        kinds = len(_kinds(self.settings))
        slots = list(range(kinds * index, kinds * (index + 1)))
        if number == 0 and self.shared:
            slots[0] = 0
        return slots

    def _buffer(self, which: int, units: int, entries: int) -> Tensor:
        return self.buffers[which][: units * entries].view(units, entries)

    def _cotangent(self, samples: int) -> Tensor | None:
        """A unit-normal gradient of the last activation, the same under every activation."""
        if not self.settings.backward:
            return None
        last = self.layers[-1]
        generator = generator_for(self.seed, "cotangent", self.tiles)
        shape = (last.units, last.positions * samples)
        return torch.randn(shape, generator=generator, dtype=torch.float32)


def _kinds(settings: Settings) -> tuple[tuple[str, str], ...]:
    """The (tensor, direction) that are measured at a layer."""
    return FORWARD + BACKWARD if settings.backward else FORWARD


def _product(weights: Weights, patches: Tensor, out: Tensor | None = None) -> Tensor:
    """Pre-activations (units, entries) of patches (inputs, entries)."""
    h = torch.mm(weights.matrix, patches, out=out)
    return h if weights.bias is None else h.add_(weights.bias)


def _slope(activation: Activation, h: Tensor) -> Tensor:
    """The derivative at h, in memory of its own."""
    slope = activation.derivative(h)
    shared = slope.untyped_storage().data_ptr() == h.untyped_storage().data_ptr()
    return slope.clone() if shared else slope


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
