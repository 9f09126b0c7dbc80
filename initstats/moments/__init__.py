"""Streaming statistics of tensors: add tiles in any number, merge in any order, read off the table.

One implementation serves the deep stacks and the probe. `table` says what each statistic means,
`histogram` how values are binned, `accumulator` takes the tiles; two sets of kernels keep the same
contract, numba on the CPU and torch anywhere. Whatever only reads tables needs no torch: the names
load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from initstats.lazy import attach

if TYPE_CHECKING:
    from initstats.moments.accumulator import Kernels as Kernels
    from initstats.moments.accumulator import Moments as Moments
    from initstats.moments.accumulator import warm_up as warm_up
    from initstats.moments.table import BINS as BINS
    from initstats.moments.table import STATISTICS as STATISTICS
    from initstats.moments.table import Field as Field
    from initstats.moments.table import bin_edges as bin_edges
    from initstats.moments.table import register_statistic as register_statistic
else:
    __getattr__, __dir__, __all__ = attach(__name__)
