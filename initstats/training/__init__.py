"""Does it train better? Variants of a network, trained on paired seeds, each at a rate of its own.

The statistics at initialization say whether a network can learn; this room says how well it does.
"""

from __future__ import annotations

from initstats.training.grid import QUICK as QUICK
from initstats.training.grid import TrainingGrid as TrainingGrid
from initstats.training.study import compare_training as compare_training
