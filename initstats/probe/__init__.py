"""The statistics of every operation of any model, forward and backward, without touching it.

`operations` knows torch's calls, `watching` sees them, `recording` follows the signal through them,
`slots` gather the statistics, `gradients` those of the way back.
"""

from __future__ import annotations

from initstats.probe.measuring import examine, measure
from initstats.probe.probe import Probe

__all__ = ["Probe", "examine", "measure"]
