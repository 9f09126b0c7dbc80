"""How fast, and how large: the engine against what one would write by hand, and against its limit.

`run` times the variants in turn, round by round; `ratios` compares them pair by pair, as a busy
machine slows both halves of a pair alike, but not the first and the last hour of a day. `memory`,
`efficiency` and `gpu` tell what a run takes and what more of a machine adds, `machine` where all of
this was measured.
"""

from __future__ import annotations

from initstats.bench.comparison import RATIOS, Ratio, milliseconds, ratios, table
from initstats.bench.resources import efficiency, gpu, machine, memory
from initstats.bench.timing import ACTIVATIONS, VARIANTS, WORKLOADS, Workload, as_json, run

__all__ = [
    "ACTIVATIONS",
    "RATIOS",
    "VARIANTS",
    "WORKLOADS",
    "Ratio",
    "Workload",
    "as_json",
    "efficiency",
    "gpu",
    "machine",
    "memory",
    "milliseconds",
    "ratios",
    "run",
    "table",
]
