"""The statistics of every operation of any model, forward and backward, without touching it.

`kinds` and `operations` know torch's calls, `watching` sees them, `recording` follows the signal
through them, `slots` gather the statistics, `gradients` those of the way back, `batch` runs a model
and puts it back. What only reads tables needs no torch, so all but `kinds` and `summary` loads on
first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from initstats.probe.probe import Probe, measure

__all__ = ["Probe", "measure"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load the probe when one of its names is first used."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.probe"), name)
