"""The weights of a stack: drawn layer by layer, fitted to data where the init asks for it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from initstats.activations import Activation
from initstats.data import Split
from initstats.inits import Init
from initstats.stack.layers import Layer
from initstats.stack.products import Product, product
from initstats.stack.settings import Settings

FIT_SAMPLES = 256
"""How many training images a data-dependent init is fitted on."""
FIT_ROUNDS, FIT_TOLERANCE = 10, 1e-3


class Weights(NamedTuple):
    """A layer's weight as a matrix (units, inputs), and its bias (units, 1), None where all 0.

    Those of several seeds have an axis of seeds before.
    """

    matrix: Tensor
    bias: Tensor | None

    def applied(self, patches: Tensor, *, by: Product = "torch") -> Tensor:
        """Pre-activations (units, entries) of patches (inputs, entries)."""
        h = product(by, self.matrix, patches)
        return h if self.bias is None else h.add_(self.bias)


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


def weights_by_activation(
    init: Init,
    activations: Sequence[Activation],
    layers: Sequence[Layer],
    seeds: Sequence[int],
    fit: Split | None,
    settings: Settings,
) -> list[list[Weights]]:
    """The weights under each activation: the same object where the init does not look at it.

    Drawn and fitted in float32 on the CPU, then moved to where the passes run.
    """
    if init.fitted and not (fit and len(fit)):
        raise ValueError(f"init {init.name!r} is fitted on training samples; none were given")
    tile = fit.tile(0, len(fit)) if init.fitted and fit else None

    def under(activation: Activation) -> list[Weights]:
        drawn = [draw(init, activation, layers, seed) for seed in seeds]
        if tile is not None:
            drawn = [_fitted(weights, activation, layers, tile) for weights in drawn]
        return [_together(weights, settings) for weights in zip(*drawn, strict=True)]

    if init.fitted or init.follows_activation:
        return [under(activation) for activation in activations]
    return [under(activations[0])] * len(activations)


def _together(drawn: Sequence[Weights], settings: Settings) -> Weights:
    """A layer's weights of some seeds, where the passes run and in their type."""
    matrices = [matrix for matrix, _ in drawn]
    biases = [m.new_zeros(len(m), 1) if bias is None else bias for m, bias in drawn]
    one = len(drawn) == 1
    matrix, bias = (each[0] if one else torch.stack(each) for each in (matrices, biases))
    place = settings.place
    return Weights(matrix.to(**place), bias.to(**place) if bias.any() else None)


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
            std = float(Weights(matrix, bias).applied(patches).to(torch.float64).std())
            if abs(std - 1) <= FIT_TOLERANCE or not 0 < std < math.inf:
                break
            matrix = matrix / std
        fitted.append(Weights(matrix, bias))
        x = activation(fitted[-1].applied(patches))
    return fitted
