"""Activations: each is its function, its derivative, its kinks, and how to compute them in place.

Add one in `families`: a function of a tensor, decorated.
"""

from __future__ import annotations

from initstats.activations import families as families
from initstats.activations.comparison import TorchGain as TorchGain
from initstats.activations.comparison import torch_gain as torch_gain
from initstats.activations.entry import ACTIVATIONS as ACTIVATIONS
from initstats.activations.entry import Activation as Activation
from initstats.activations.entry import Facts as Facts
from initstats.activations.entry import activation as activation
from initstats.activations.entry import gain as gain
from initstats.activations.entry import get as get
from initstats.activations.entry import register_activation as register_activation
