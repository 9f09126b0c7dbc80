"""Convolutional stacks: maps of power, position by position (He et al. 2015, arXiv:1502.01852)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv_transpose2d

from initstats.activations import Activation
from initstats.data import Split
from initstats.prediction.stage import Place, Row, Stage, bends
from initstats.theory import patch_mean, response

Array = NDArray[np.float64]

_IMAGES = 1024  # at once
_SHIFTS = "shifts by the number of channels are not known for convolutions"
_MOMENTS = ("mean", "second_moment", "negative_fraction", "zero_fraction")


def convolutional_rows(
    split: Split, activation: Activation, stages: Sequence[Stage], *, backward: bool
) -> dict[Place, Row]:
    """The rows of a convolutional stack, as far as its stages go, at infinitely many channels.

    Exact in expectation for rectifiers. `std` is the root of the second moment about the mean:
    that the mean itself fluctuates is left out.
    """
    means: dict[Place, Array] = {}
    bent = np.zeros(len(stages), dtype=bool)
    for start in range(0, len(split), _IMAGES):
        stop = min(start + _IMAGES, len(split))
        images = split.x[start:stop].view(stop - start, -1, *split.shape[-2:])
        found, curved = _image_means(images, activation, stages, backward=backward)
        bent |= curved
        for place, values in found.items():
            share = (stop - start) / len(split)
            means[place] = means.get(place, np.zeros(len(_MOMENTS))) + share * np.array(values)
    return {place: _row(place, values, bent) for place, values in means.items()}


def _image_means(
    images: Tensor, activation: Activation, stages: Sequence[Stage], *, backward: bool
) -> tuple[dict[Place, list[float]], NDArray[np.bool_]]:
    """The moments over images and positions, and the layers whose G is not linear in q."""
    means: dict[Place, list[float]] = {}
    power = images.double().square().mean(1)
    slopes: list[Tensor] = []
    bent: list[bool] = []
    for number, stage in enumerate(stages, 1):
        layer = stage.layer
        seen = patch_mean(power, layer.kernel, stride=layer.stride, padding=layer.padding)
        q = stage.sigma_w2 * seen + stage.sigma_b2
        r = response(activation, q.numpy(), stage.uniform_bias)
        power = torch.from_numpy(r.square)
        slopes.append(torch.from_numpy(r.slope_square))
        bent.append(bends(r, q.numpy()))
        silent = float((q == 0).double().mean())
        means[number, "preactivation", "forward"] = [0, float(q.mean()), (1 - silent) / 2, silent]
        moments = (r.mean, r.square, r.negative, r.zero)
        means[number, "activation", "forward"] = [float(values.mean()) for values in moments]
    if backward:
        means |= _gradients(slopes, stages)
    return means, np.array(bent)


def _gradients(slopes: Sequence[Tensor], stages: Sequence[Stage]) -> dict[Place, list[float]]:
    means: dict[Place, list[float]] = {}
    square = torch.ones_like(slopes[-1])
    for number in range(len(stages), 0, -1):
        layer = stages[number - 1].layer
        means[number, "activation", "backward"] = _of_gradient(square)
        square = square * slopes[number - 1]
        means[number, "preactivation", "backward"] = _of_gradient(square)
        # A position hears from every patch that it is in.
        margin = [
            side + 2 * layer.padding - layer.kernel - layer.stride * (behind - 1)
            for side, behind in zip(layer.inputs, layer.outputs, strict=True)
        ]
        kernel = square.new_ones(1, 1, layer.kernel, layer.kernel)
        heard = conv_transpose2d(square[:, None], kernel, None, layer.stride, layer.padding, margin)
        variance = stages[number - 1].sigma_w2 / np.prod(layer.weight[1:])
        square = heard[:, 0] * layer.units * variance
    return means


def _of_gradient(square: Tensor) -> list[float]:
    return [0.0, float(square.mean()), np.nan, np.nan]


def _row(place: Place, values: Array, bent: NDArray[np.bool_]) -> Row:
    number, tensor, direction = place
    mean, square, negative, zero = values.tolist()
    layers = number - (tensor == "preactivation" and direction == "forward")
    felt = bent.any() if direction == "backward" else bent[:layers].any()
    return Row(
        mean=mean,
        std=float(np.sqrt(max(square - mean**2, 0.0))),
        second_moment=square,
        negative_fraction=negative,
        zero_fraction=zero,
        note=_SHIFTS if felt else "",
    )
