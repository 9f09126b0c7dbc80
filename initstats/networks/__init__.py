"""Networks: blocks that run, go back and predict, and the networks that are made of them.

Add a block in a file of its own; add a network as a function of `width` and `depth` that lists
blocks, decorated with `register_network`. Nothing else asks what a network is called.
"""

from __future__ import annotations

from initstats.networks import plain as plain
from initstats.networks import rescnn as rescnn
from initstats.networks import resmlp as resmlp
from initstats.networks import transformer as transformer
from initstats.networks.activate import Activate as Activate
from initstats.networks.block import Block as Block
from initstats.networks.block import Direction as Direction
from initstats.networks.block import Expectation as Expectation
from initstats.networks.block import Leaf as Leaf
from initstats.networks.block import Linear as Linear
from initstats.networks.block import Place as Place
from initstats.networks.block import Run as Run
from initstats.networks.block import Signal as Signal
from initstats.networks.block import Weights as Weights
from initstats.networks.convolution import Conv as Conv
from initstats.networks.dense import Dense as Dense
from initstats.networks.entry import NETWORKS as NETWORKS
from initstats.networks.entry import Network as Network
from initstats.networks.entry import UnreadableError as UnreadableError
from initstats.networks.entry import get as get
from initstats.networks.entry import register_network as register_network
from initstats.networks.pool import Pool as Pool
from initstats.networks.residual import Residual as Residual
from initstats.networks.serial import Serial as Serial
from initstats.networks.stream import Stream as Stream
