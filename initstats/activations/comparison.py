"""torch's recommended gains beside ours: which of the three kinds its number is, if any."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from initstats.activations.entry import ACTIVATIONS, Activation, get
from initstats.gaussian import Function

_IN_TORCH = ("identity", "relu", "leaky_relu", "selu", "tanh", "sigmoid")


@dataclass(frozen=True)
class TorchGain:
    """What ``torch.nn.init.calculate_gain`` says, and which of our gains that is.

    Attributes:
        number: torch's recommendation.
        equals: those of forward, variance, backward that it equals to nine digits.
        ratio: number over the forward gain; at q = 1 a layer multiplies q by its square.
    """

    number: float
    equals: tuple[str, ...]
    ratio: float

    @property
    def verdict(self) -> str:
        """The comparison in words, such as ``forward and backward``."""
        if self.equals:
            return " and ".join(self.equals)
        side = "above" if self.ratio > 1 else "below"
        return f"none of the three: {abs(self.ratio - 1):.1%} {side} forward"


def torch_gain(activation: str | Activation | Function) -> TorchGain | None:
    """Compare torch's number with the gains; None where torch has no entry for the activation.

    >>> torch_gain("relu").verdict
    'forward and backward'
    >>> torch_gain("tanh").verdict
    'none of the three: 4.7% above forward'
    """
    entry = get(activation)
    if not entry.module:
        return None
    family, parameters = ACTIVATIONS.parse(entry.name)
    if family not in _IN_TORCH:
        return None
    name: Any = "linear" if family == "identity" else family
    slope: Any = parameters.get("negative_slope")
    number = float(nn.init.calculate_gain(name, slope))
    kinds = ("forward", "variance", "backward")
    equals = tuple(kind for kind in kinds if math.isclose(number, getattr(entry.gain, kind)))
    return TorchGain(number, equals, number / entry.gain.forward)
