"""What theory knows of a layer of a grid: its geometry, and the law that its weights follow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.inits import Init
from initstats.stack import Layer
from initstats.theory import Response

LEAST, MOST = 1e-74, 1e74
"""Second moments that float32 can have: squares of what it can hold."""
LOST = "the signal leaves the range of float32"

_BENT = 1e-6  # relative curvature that counts

Place = tuple[int, str, str]
"""Layer, tensor and direction."""


class Row(TypedDict, total=False):
    """What theory says of one place; what is absent is unknown."""

    mean: float
    std: float
    second_moment: float
    negative_fraction: float
    zero_fraction: float
    unit_mean_std: float
    sample_correlation: float
    second_moment_spread: float
    second_moment_error: float
    note: str


@dataclass(frozen=True)
class Stage:
    """A layer and the law of its weights.

    Attributes:
        layer: the geometry.
        sigma_w2: fan_in times the variance of a weight.
        sigma_b2: variance of a bias.
        uniform_bias: the part of q that biases add and that is uniform: sigma_b2, or 0.
        radial: share of the fluctuation of a pre-activation's length over units that independent
            weights have: 1, or less for orthogonal ones: 0 where they keep lengths.
    """

    layer: Layer
    sigma_w2: float
    sigma_b2: float
    uniform_bias: float
    radial: float


def stages(init: Init, activation: Activation, layers: Sequence[Layer]) -> Iterator[Stage]:
    """The layers, as far as they are random draws of a known variance."""
    for layer in layers:
        sigma_w2 = init.sigma_w2(layer.weight, activation)
        sigma_b2 = init.sigma_b2(layer.weight, activation)
        if init.fitted or math.isnan(sigma_w2 + sigma_b2):
            return
        out, inputs = layer.weight[0], math.prod(layer.weight[1:])
        yield Stage(
            layer,
            sigma_w2,
            sigma_b2,
            uniform_bias=sigma_b2 if init.uniform_bias else 0.0,
            radial=max(0.0, 1 - out / inputs) if init.orthogonal else 1.0,
        )


def bends(response: Response, q: NDArray[np.float64]) -> bool:
    """Whether G(q) is no straight line, so that a finite width shifts what follows from it."""
    return bool((np.abs(response.square_2) * q**2 > _BENT * response.square).any())


def unknown_beyond(init: Init) -> str:
    """Why theory says nothing of a layer that is no stage."""
    if init.fitted:
        return "weights are fitted to data: nothing is left to predict"
    if init.name.partition("(")[0] == "identity":
        return "the layer passes its input on: no draw of weights to take a mean over"
    return f"init {init.name!r} declares no variance"
