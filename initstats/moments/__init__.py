"""Streaming statistics of tensors: add tiles in any number, merge in any order, read off the table.

One implementation serves the deep stacks and the probe. `table` says what each statistic means,
`histogram` how values are binned, `accumulator` takes the tiles; two sets of kernels keep the same
contract, numba on the CPU and torch anywhere. What only reads tables needs no torch, so the
accumulator loads on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from initstats.moments.table import BINS, STATISTICS, bin_edges, register_statistic

if TYPE_CHECKING:
    from initstats.moments.accumulator import Kernels, Moments, warm_up

__all__ = [
    "BINS",
    "STATISTICS",
    "Kernels",
    "Moments",
    "bin_edges",
    "register_statistic",
    "warm_up",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load the accumulator when one of its names is first used."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.accumulator"), name)
