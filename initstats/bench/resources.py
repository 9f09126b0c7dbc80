"""What whole runs take: memory, and time with one worker, with two, and on a GPU."""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

from initstats import activations, inits
from initstats.bench.timing import ACTIVATIONS, INIT, SEED, WORKLOADS
from initstats.data import Dataset, load_data
from initstats.machine import added_memory
from initstats.moments import warm_up
from initstats.networks import get
from initstats.registry import unknown
from initstats.stack import Settings, run_stack
from initstats.sweep import Grid, Progress, run_sweep

GOALS = {"speedup": 1.8, "megabytes": 60, "seconds": 45}
"""At least so much faster with two workers; at most so much memory, so long a default study."""


def memory(samples: Iterable[int] = (1_000, 10_000, 50_000), workload: str = "S") -> pd.DataFrame:
    """Peak memory of a workload above that of the process with its data loaded.

    Each is measured in a process of its own, whose modules, kernels and images (all of MNIST, as
    bytes) are there before.

    Args:
        samples: how many of the training images stream through.
        workload: a name of `WORKLOADS`.

    Returns:
        `samples` and `megabytes`, a row each.

    Raises:
        ValueError: an unknown workload.
        ChildProcessError: a process failed.
    """
    if workload not in WORKLOADS:
        raise unknown("workload", workload, WORKLOADS)
    code = "from initstats.bench.resources import added; print(added({}, {!r}))".format
    rows = [
        (number, float(_elsewhere("measuring memory", "-c", code(number, workload))))
        for number in samples
    ]
    return pd.DataFrame(rows, columns=["samples", "megabytes"])


def efficiency(
    *, rounds: int = 3, quick: bool = False, progress: Progress | None = None
) -> pd.DataFrame:
    """How much faster two worker processes get through a study than one does.

    Rates are those of the middle half of the study's cells: the two processes need some seconds to
    start, which long studies do not notice, and at the end one waits for the other. Results are
    kept on disk, as always.

    Args:
        rounds: how often; each runs the study on one process, then on two.
        quick: a smaller study, once.
        progress: told of every study.

    Returns:
        One row a round: `round`, cells a second of `one` and of `two` workers, their `speedup`.
    """
    data = load_data()
    grid = _study(depth=10, seeds=24, samples=2_000) if quick else _study(seeds=32)
    ways = {name: partial(_rate, grid, data, n) for n, name in enumerate(("one", "two"), 1)}
    return _speedups(ways, 1 if quick else rounds, progress)


def gpu(
    device: str = "cuda",
    *,
    rounds: int = 3,
    quick: bool = False,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """How much faster a GPU gets through a study than one worker process.

    Args:
        device: which one.
        rounds, quick, progress: as in `efficiency`.

    Returns:
        One row a round: `round`, cells a second of `cpu` and of `gpu`, their `speedup`.

    Raises:
        ValueError: torch cannot use the device.
    """
    data = load_data()
    size = {"depth": 10, "samples": 2_000} if quick else {}
    ways = {
        "cpu": partial(_rate, _study(**size, seeds=16), data, 1),
        "gpu": partial(_rate, _study(**size, seeds=160, device=device), data, 1),
    }
    return _speedups(ways, 1 if quick else rounds, progress)


def _study(**fields: Any) -> Grid:
    """A grid like workload S, of half its depth."""
    return Grid(inits=[INIT], activations=ACTIVATIONS, **{"samples": 10_000, **fields})


def _speedups(
    ways: Mapping[str, Callable[[], float]], rounds: int, progress: Progress | None
) -> pd.DataFrame:
    """Rates of two ways to do the same in turn, and how much faster the second is."""
    rows = []
    for number in range(rounds):
        rates = []
        for done, rate in enumerate(ways.values(), 1):
            rates.append(rate())
            if progress is not None:
                progress(len(ways) * number + done, len(ways) * rounds)
        rows.append((number, *rates, rates[1] / rates[0]))
    return pd.DataFrame(rows, columns=["round", *ways, "speedup"])


def study(*, quick: bool = False) -> float:
    """Seconds by the clock that the default study takes from the command line, its report too.

    Args:
        quick: a smaller study.
    """
    small = ["--depth", "4", "--seeds", "2", "--samples", "500"] if quick else []
    with TemporaryDirectory() as folder:
        began = perf_counter()
        _elsewhere("the default study", "-m", "initstats", "sweep", "--out", folder, *small)
        return perf_counter() - began


def _rate(grid: Grid, data: Dataset, workers: int) -> float:
    """Cells a second over the middle half of a study."""
    times: list[float] = []
    with TemporaryDirectory() as folder:
        run_sweep(
            grid,
            data,
            out=folder,
            workers=workers,
            progress=lambda *_: times.append(perf_counter()),
        )
    quarter = len(times) // 4
    middle = np.array(times[quarter:-quarter])
    # a slope, as the cells of a task all come at once
    return float(1 / np.polyfit(np.arange(len(middle)), middle, 1)[0])


def _elsewhere(what: str, *arguments: str) -> str:
    """What another interpreter prints."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ChildProcessError(f"{what} failed: {done.stderr.strip()}")
    return done.stdout


def added(samples: int, workload: str) -> float:
    """Megabytes by which a workload raises this process's peak, its data being loaded."""
    chosen, split = WORKLOADS[workload], load_data().train.first(samples)
    settings = Settings.suited(chosen.depth, samples)
    entries = [activations.get(name) for name in ACTIVATIONS]
    init = inits.get(INIT)
    warm_up()
    network = get(chosen.network).on(split.shape, chosen.width, chosen.depth)
    stack = (network, init, entries, [SEED], split, None, settings)
    return added_memory(lambda: deque(run_stack(*stack), maxlen=0))
