"""Planning a study: what it will take, from its grid, its folder and a trial."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from initstats.data import Dataset
from initstats.machine import added_memory, resident_memory
from initstats.moments import BINS, STATISTICS
from initstats.plan.driving import Driving, drive
from initstats.plan.plan import Plan
from initstats.plan.queue import queue
from initstats.plan.theory import theory_seconds
from initstats.plan.trial import TOGETHER, Rates, Trial, sizes_of, try_out, warm_up_for
from initstats.registry import staying
from initstats.store import Key, committed_cells, is_run, refuse_other_settings
from initstats.sweep import Grid
from initstats.sweep.grid import MOST_TOGETHER
from initstats.sweep.running import asked_for
from initstats.sweep.work import Engine, Task, multiply_adds, suited_workers, tasks

START = 4.0
"""The seconds in which a worker process starts."""
BYTES_OF_TASK, BYTES_OF_CELL = 3_000, 250
"""The driver's memory for each task, and for the name of each cell."""


@staying()
def plan_sweep(
    grid: Grid,
    data: Dataset,
    *,
    out: str | Path | None = None,
    workers: int | None = None,
    theory: bool = False,
) -> Plan:
    """Tell what `run_sweep` will take, from a trial of some seconds.

    Args:
        grid, data: as for `run_sweep`.
        out: the run's folder, which is read: its cells are not measured again.
        workers: the processes to plan for; by default what the work is worth on this machine.
        theory: whether the rows are predicted, too.

    Raises:
        ValueError: what cannot be measured, or not be kept in the folder, as for `run_sweep`.
    """
    engine, asked, count = asked_for(grid, data, workers)
    done: set[Key] = set()
    if out is not None and is_run(out):
        there, done = committed_cells(out)
        refuse_other_settings(Path(out), there, asked)
        engine = replace(engine, settings=replace(engine.settings, **there.engine))
    work = tasks(grid, done, engine.settings.batch)
    left = sum(task.total for task in work)
    if workers is None:
        count = min(count, suited_workers(work, engine))
    if work:
        warm_up_for(work, engine)
    before, trials = resident_memory(), list[Trial]()
    working = added_memory(lambda: trials.extend(try_out(work, engine))) if work else 0.0
    driving = drive(asked, [(trial.task, trial.outcome) for trial in trials])
    seconds = _seconds(work, engine, trials)
    rows = _rows(grid, engine)
    table = (8.0 * len(STATISTICS) + 32) * rows
    names = BYTES_OF_TASK * len(work) + BYTES_OF_CELL * len(grid)
    worker = 1e6 * (before + working) + _accumulators(grid, engine)
    counts = _counts(count)
    return Plan(
        cells=len(grid),
        done=len(grid) - left,
        operations=sum(multiply_adds(task, engine) for task in work),
        workers=count,
        seconds={number: _time(seconds, work, driving, number) for number in counts},
        cell_seconds=sum(seconds) / max(1, left),
        driver_seconds=driving.seconds,
        theory_seconds=theory_seconds(grid, data) + driving.reading * len(grid) if theory else 0.0,
        store_bytes=driving.empty + driving.bytes * (len(done) + left),
        table_bytes=table,
        driver_bytes=table + names + (worker if count == 1 else 1e6 * before),
        worker_bytes=worker,
    )


def _seconds(work: Sequence[Task], engine: Engine, trials: Sequence[Trial]) -> list[float]:
    """The seconds of each task on one core."""
    if not trials:
        return []
    rates = Rates(trials)
    sizes = sizes_of(work, engine)
    return [rates.seconds(task, size) for task, size in zip(work, sizes, strict=True)]


def _time(seconds: Sequence[float], work: Sequence[Task], driving: Driving, workers: int) -> float:
    """The seconds until all tasks are done and written."""
    each = [task.total * driving.seconds for task in work]
    if workers == 1:
        return sum(seconds) + sum(each)
    start = START if work else 0.0
    cores = os.cpu_count() or 1
    shared = (sum(seconds) + sum(each)) / cores if workers <= cores else 0.0
    return start + max(shared, queue(zip(seconds, each, strict=True), workers).seconds)


def _counts(workers: int) -> list[int]:
    """1, 2, 4 and so on up to a number of workers; at least what this machine has."""
    most = max(workers, os.cpu_count() or 1)
    return sorted({*(2**power for power in range(most.bit_length())), most, workers})


def _rows(grid: Grid, engine: Engine) -> int:
    """The rows of the table of a whole grid."""
    per_init = sum(
        len(network.on(engine.split.shape, width, grid.depth).places(backward=grid.backward))
        * len(grid.inits_of(network))
        for network in grid.every_network
        for width in grid.widths
    )
    return per_init * len(grid.activations) * len(grid.seeds)


def _accumulators(grid: Grid, engine: Engine) -> float:
    """Bytes for the activations that a task has beside those of a trial.

    Half of a histogram is never written to.
    """
    more = max(0, min(len(grid.activations), MOST_TOGETHER) - TOGETHER)
    own = any(init.follows_activation or init.fitted for init in grid.every_init)
    each = 0.0
    for entry in grid.every_network:
        network = entry.on(engine.split.shape, max(grid.widths), grid.depth)
        weights = 4 * sum(math.prod(layer.weight) for layer in network.layers)
        rows = len(network.places(backward=grid.backward))
        each = max(each, rows * 8 * BINS / 2 + weights * own)
    return more * each
