"""The statistics of every operation of any model, forward and backward, without touching it.

`kinds` and `operations` know torch's calls, `watching` sees them, `recording` follows the signal
through them, `slots` gather the statistics, `gradients` those of the way back. What only reads
tables needs no torch, so all but `kinds` loads on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from initstats.probe.measuring import examine, measure
    from initstats.probe.probe import Probe

_HOME = {"Probe": "probe", "examine": "measuring", "measure": "measuring"}

__all__ = ["Probe", "examine", "measure"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load the probe when one of its names is first used."""
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
