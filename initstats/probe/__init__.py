"""The statistics of every operation of any model, forward and backward, without touching it.

`kinds` and `operations` know torch's calls, `watching` sees them, `recording` follows the signal
through them from its `origins`, `slots` gather the statistics, `gradients` those of the way back,
`batch` runs a model and puts it back. What an operation computes is read off it when it runs:
`axes` where the units are, `linear` how many inputs they sum, `forms` and `elementwise` which
function made a value; `facts` keep it. What only reads tables needs no torch, so all but `kinds`
and `summary` loads on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from initstats.lazy import attach

if TYPE_CHECKING:
    from initstats.probe.measuring import examine as examine
    from initstats.probe.measuring import measure as measure
    from initstats.probe.probe import Probe as Probe
else:
    __getattr__, __dir__, __all__ = attach(__name__)
