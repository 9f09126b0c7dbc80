"""Activations: each is its function, its derivative, its kinks, and how to compute them in place.

Add one in `families`: a function of a tensor, decorated.
"""

from __future__ import annotations

from initstats.activations import families as families
from initstats.activations.comparison import TorchGain, torch_gain
from initstats.activations.entry import (
    ACTIVATIONS,
    Activation,
    Facts,
    activation,
    gain,
    get,
    register_activation,
)

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Facts",
    "TorchGain",
    "activation",
    "gain",
    "get",
    "register_activation",
    "torch_gain",
]
