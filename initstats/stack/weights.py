"""The weights of a stack: drawn layer by layer, fitted to data where the init asks for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from initstats.activations import Activation
from initstats.data import Split
from initstats.draws import generator_for
from initstats.fitting import fit_std
from initstats.inits import Init
from initstats.networks import Block, Direction, Leaf, Linear, Serial, Weights
from initstats.networks.block import Ratio
from initstats.stack.products import Product, product
from initstats.stack.settings import Settings

FIT_SAMPLES = 256
"""Number of training images that a data-dependent init is fitted on."""

ByLayer = dict[int, Weights]
"""The weights of a network, by the number of the layer."""


def applied(weights: Weights, patches: Tensor, *, by: Product = "torch") -> Tensor:
    """Pre-activations ([seeds,] units, entries) of patches ([seeds,] inputs, entries)."""
    h = product(by, weights.matrix, patches)
    return h if weights.bias is None else h.add_(weights.bias)


def weights_by_activation(
    init: Init,
    activations: Sequence[Activation],
    network: Serial,
    seeds: Sequence[int],
    fit: Split | None,
    settings: Settings,
) -> list[ByLayer]:
    """The weights under each activation: the same objects where they do not depend on it.

    They are drawn and fitted in float32 on the CPU, then moved to where the passes run.
    """
    if init.fitted and not (fit and len(fit)):
        raise ValueError(f"init {init.name!r} is fitted on training samples; none were given")
    tile = fit.tile(0, len(fit)) if init.fitted and fit else None

    def under(activation: Activation) -> ByLayer:
        drawn = [network.draw(init, activation, partial(generator_for, seed)) for seed in seeds]
        if tile is not None:
            for weights in drawn:
                network.forward(tile, _Fit(activation, weights, deque(maxlen=0)))
        return {layer: _together([each[layer] for each in drawn], settings) for layer in drawn[0]}

    first = under(activations[0])
    if not (init.fitted or init.follows_activation):
        return [first] * len(activations)
    shared = {layer.number: first[layer.number] for layer in network.split()[0].layers}
    return [first, *(under(activation) | shared for activation in activations[1:])]


def _together(drawn: Sequence[Weights], settings: Settings) -> Weights:
    """A layer's weights of some seeds, where the passes run and in their type."""
    matrices = [matrix for matrix, _ in drawn]
    biases = [m.new_zeros(len(m), 1) if bias is None else bias for m, bias in drawn]
    one = len(drawn) == 1
    matrix, bias = (each[0] if one else torch.stack(each) for each in (matrices, biases))
    place = settings.place
    return Weights(matrix.to(**place), bias.to(**place) if bias.any() else None)


@dataclass
class _Fit:
    """A `Run`, forward alone, that fits weights on its way: LSUV (Mishkin & Matas 2016).

    Each layer is scaled until its pre-activation has std 1. A layer whose pre-activation is
    constant or not finite cannot be scaled, and stays as drawn.
    """

    activation: Activation
    weights: ByLayer
    tape: deque[Tensor]

    def applied(self, block: Linear, x: Tensor) -> Tensor:
        patches = block.gather(x)

        def std() -> float:
            return float(applied(self.weights[block.number], patches).to(torch.float64).std())

        def divide(size: float) -> None:
            matrix, bias = self.weights[block.number]
            self.weights[block.number] = Weights(matrix / size, bias)

        fit_std(std, divide, tolerance=1e-3, rounds=10)
        return applied(self.weights[block.number], patches)

    def transposed(self, block: Linear, gradient: Tensor) -> Tensor:
        raise NotImplementedError("weights are fitted on the way forward")

    def activated(self, h: Tensor) -> Tensor:
        return self.activation(h)

    def pulled_back(self, gradient: Tensor, h: Tensor) -> Tensor:
        raise NotImplementedError("weights are fitted on the way forward")

    def weight(self, number: int) -> Tensor:
        return self.weights[number].matrix

    def mask(self, block: Block, sizes: tuple[int, int, int], keep: float) -> Tensor:
        units, positions, samples = sizes
        shape = units, positions * samples
        generator = generator_for(0, "fit", block.reads.layer, block.reads.products)
        return (torch.rand(shape, generator=generator, dtype=torch.float32) < keep).float()

    def emit(self, block: Leaf, direction: Direction, x: Tensor) -> None:
        pass

    def note(self, block: Leaf, direction: Direction, **ratios: Ratio) -> None:
        pass
