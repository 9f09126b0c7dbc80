"""The memory that whole runs take, and their time with one worker, with two, and on a GPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

from initstats.bench.timing import ACTIVATIONS, INIT, WORKLOADS, run_engine
from initstats.data import Dataset, load_data
from initstats.drafts import draft_folder
from initstats.machine import added_memory
from initstats.moments import warm_up
from initstats.plan import drive
from initstats.processes import die_with_driver
from initstats.stack import Settings
from initstats.sweep import Grid, Progress, run_sweep
from initstats.sweep.running import asked_for
from initstats.sweep.work import tasks

GOALS = {"speedup": 1.8, "megabytes": 60, "seconds": 45}
"""The least speedup with two workers, the most memory, the longest time of the default study."""


def memory(samples: Iterable[int] = (1_000, 10_000, 50_000), workload: str = "S") -> pd.DataFrame:
    """Peak memory that a workload adds to a process that holds the data.

    Each is measured in a process of its own, which has loaded modules, kernels and images (all of
    MNIST, as bytes) before.

    Args:
        samples: numbers of training images to stream through.
        workload: a name of `WORKLOADS`.

    Returns:
        One row for each of `samples`: `samples` and `megabytes`.

    Raises:
        ValueError: an unknown workload.
        ChildProcessError: a process failed.
    """
    name = WORKLOADS[workload].name
    code = "from initstats.bench.resources import added; print(added({}, {!r}))".format
    rows = [
        (number, float(_elsewhere("measuring memory", "-c", code(number, name))))
        for number in samples
    ]
    return pd.DataFrame(rows, columns=["samples", "megabytes"])


def efficiency(
    *, rounds: int = 3, quick: bool = False, progress: Progress | None = None
) -> pd.DataFrame:
    """The speedup of a study by two worker processes over one.

    Rates are those of the middle half of the study's cells: the two processes take some seconds to
    start, which hardly matter in a long study, and at the end one waits for the other. Results are
    kept on disk, as always.

    Args:
        rounds: number of rounds; each runs the study on one process, then on two.
        quick: a smaller study, once.
        progress: called after every study.

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
    """The speedup of a study by a GPU over one worker process.

    Args:
        device: the GPU, as torch spells it.
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
    """Rates of two ways to do the same, taken in turn, and how much faster the second is."""
    rows = []
    for number in range(rounds):
        rates = []
        for done, rate in enumerate(ways.values(), 1):
            rates.append(rate())
            if progress is not None:
                progress(len(ways) * number + done, len(ways) * rounds)
        rows.append((number, *rates, rates[1] / rates[0]))
    return pd.DataFrame(rows, columns=["round", *ways, "speedup"])


def driver(*, quick: bool = False) -> float:
    """Seconds that the driver spends on each cell of a study of twenty layers, or ten.

    However many workers there are, cells cannot be finished faster than that.
    """
    grid, data = _study(depth=10 if quick else 20, seeds=1), load_data()
    engine, asked, _ = asked_for(grid, data, 1)
    (task,) = tasks(grid, (), engine.settings.batch)
    return drive(asked, [(task, engine(task))]).seconds


def study(*, quick: bool = False) -> float:
    """Seconds by the clock that the default study, or a quick one, takes, with its report."""
    small = ["--depth", "4", "--seeds", "2", "--samples", "500"] if quick else []
    with draft_folder() as folder:
        began = perf_counter()
        _elsewhere("the default study", "-m", "initstats", "sweep", "--out", str(folder), *small)
        return perf_counter() - began


def _rate(grid: Grid, data: Dataset, workers: int) -> float:
    """Cells a second over the middle half of a study."""
    times: list[float] = []
    with draft_folder() as folder:
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
    """The output of another interpreter."""
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=die_with_driver
    )
    if done.returncode:
        raise ChildProcessError(f"{what} failed: {done.stderr.strip()}")
    return done.stdout


def added(samples: int, workload: str) -> float:
    """Megabytes that a workload adds to this process's peak, once its data are loaded."""
    chosen, split = WORKLOADS[workload], load_data().train.first(samples)
    settings = Settings(chosen.depth, samples).suited()
    warm_up()
    return added_memory(partial(run_engine, chosen, split, settings))
