"""Networks: blocks that draw, run, go back and predict, and the networks that are made of them.

Add a block in a file of its own; add a network as a function of `width` and `depth` that lists
blocks, decorated with `register_network`. Nothing else asks what a network is called.
"""

from __future__ import annotations

from initstats.networks import plain as plain
from initstats.networks.activate import Activate
from initstats.networks.block import (
    Block,
    Direction,
    Expectation,
    Leaf,
    Linear,
    Place,
    Run,
    Signal,
    Weights,
)
from initstats.networks.convolution import Conv
from initstats.networks.dense import Dense
from initstats.networks.entry import NETWORKS, Network, get, register_network
from initstats.networks.residual import Residual
from initstats.networks.serial import Serial

__all__ = [
    "NETWORKS",
    "Activate",
    "Block",
    "Conv",
    "Dense",
    "Direction",
    "Expectation",
    "Leaf",
    "Linear",
    "Network",
    "Place",
    "Residual",
    "Run",
    "Serial",
    "Signal",
    "Weights",
    "get",
    "register_network",
]
