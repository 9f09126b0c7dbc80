"""Activations: each is its function, its derivative, its kinks and its known Gaussian moments.

Add one in `families`: a function of a tensor, decorated. Moments are for x ~ N(0, q), the
pre-activations of a wide layer (Poole et al. 2016, arXiv:1606.05340).
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
