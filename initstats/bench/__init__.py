"""Time and memory: the engine against what one would write by hand, and against its limit.

`run` times the variants in turn, round by round; `ratios` compares them pair by pair, as a busy
machine slows both halves of a pair alike, but not the first and the last hour of a day. `memory`,
`efficiency`, `gpu` and `study` measure whole runs; `write_benchmark` puts everything on a page.
"""

from __future__ import annotations

from initstats.bench.comparison import RATIOS as RATIOS
from initstats.bench.comparison import Ratio as Ratio
from initstats.bench.comparison import milliseconds as milliseconds
from initstats.bench.comparison import ratios as ratios
from initstats.bench.comparison import table as table
from initstats.bench.modules import architectures as architectures
from initstats.bench.page import as_json as as_json
from initstats.bench.page import from_json as from_json
from initstats.bench.page import whole_runs as whole_runs
from initstats.bench.page import write_benchmark as write_benchmark
from initstats.bench.resources import driver as driver
from initstats.bench.resources import efficiency as efficiency
from initstats.bench.resources import gpu as gpu
from initstats.bench.resources import memory as memory
from initstats.bench.resources import study as study
from initstats.bench.timing import ACTIVATIONS as ACTIVATIONS
from initstats.bench.timing import VARIANTS as VARIANTS
from initstats.bench.timing import WORKLOADS as WORKLOADS
from initstats.bench.timing import Workload as Workload
from initstats.bench.timing import run as run
from initstats.bench.trainings import training as training
from initstats.bench.trainings import training_workers as training_workers
