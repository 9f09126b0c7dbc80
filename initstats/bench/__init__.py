"""How fast, and how large: the engine against what one would write by hand, and against its limit.

`run` times the variants in turn, round by round; `ratios` compares them pair by pair, as a busy
machine slows both halves of a pair alike, but not the first and the last hour of a day. `memory`,
`efficiency`, `gpu` and `study` measure whole runs; `write_benchmark` puts all on a page.
"""

from __future__ import annotations

from initstats.bench.comparison import RATIOS, Ratio, milliseconds, ratios, table
from initstats.bench.page import as_json, from_json, whole_runs, write_benchmark
from initstats.bench.resources import efficiency, gpu, memory, study
from initstats.bench.timing import ACTIVATIONS, VARIANTS, WORKLOADS, Workload, run

__all__ = [
    "ACTIVATIONS",
    "RATIOS",
    "VARIANTS",
    "WORKLOADS",
    "Ratio",
    "Workload",
    "as_json",
    "efficiency",
    "from_json",
    "gpu",
    "memory",
    "milliseconds",
    "ratios",
    "run",
    "study",
    "table",
    "whole_runs",
    "write_benchmark",
]
