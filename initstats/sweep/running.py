"""Running a study: from a grid and data to the table, kept in a store on the way."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from initstats.data import Dataset, Split
from initstats.failure import Failure
from initstats.machine import machine
from initstats.moments import STATISTICS, bin_edges, warm_up
from initstats.networks.batch_norm import check_batches
from initstats.networks.extending import is_extended
from initstats.processes import check_guard
from initstats.registry import check_importable, staying
from initstats.stack import FIT_SAMPLES, Settings
from initstats.store import Definitions, Run, Store, parameters_of
from initstats.sweep.attempts import attempted, failed
from initstats.sweep.cell import KEYS, PLACES
from initstats.sweep.definitions import definitions, statistic_definitions
from initstats.sweep.grid import Grid
from initstats.sweep.hiring import Hands, hired, processes_of
from initstats.sweep.plugins import absolute_data, absolute_plugin
from initstats.sweep.work import Engine, Outcome, SomeCells, suited_workers, tasks
from initstats.workers import OwnProcesses, ThisProcess, Workers

Progress = Callable[[int, int], object]
"""Called with the cells done and all cells: at the start, and when a cell is committed."""
Cells = TypeVar("Cells", bound=SomeCells)
Measuring = Callable[[Cells], Outcome]
"""An engine."""


@staying()
def run_sweep(
    grid: Grid,
    data: Dataset,
    *,
    out: str | Path | None = None,
    workers: Hands = 1,
    progress: Progress | None = None,
    executor: Executor | None = None,
    source: str | None = None,
    plugins: Sequence[str] = (),
) -> pd.DataFrame:
    """Measure every cell of a grid.

    Args:
        out: a folder that keeps the run: each cell is there as soon as it is measured, cells that
            are there are not measured again, and longer lists extend it.
        workers: processes to share the work; 1 works in this one, None chooses by the work. A
            script that asks for more than 1 needs the guard ``if __name__ == "__main__":``. A
            ``dask.distributed.Client``: the workers of its cluster, see the README.
        progress: told of every cell.
        executor: does the work instead, wherever it runs.
        source: what `load_data` read the data from, for the folder's `grid.toml`; by default the
            dataset's name.
        plugins: the modules that the grid's names come from, for the folder's `grid.toml`.

    Returns:
        One row per cell, layer, tensor and direction, in the grid's order: the key columns
        `dataset network init activation width seed layer tensor direction`, one for each parameter
        that differs between entries of one family, as `activation_leak`, and every statistic.

    Raises:
        ValueError: what is asked cannot be measured or, as `StoreError`, not be kept in the folder.
        TypeError: something else than a grid and a dataset.
        RuntimeError: a script without that guard.
        FailedCellsError: a `RuntimeError` once all else is measured: some cells raised an error,
            or ended their worker each time that they were sent to one. It holds the table of the
            others; a folder keeps both, and the same call tries again those that failed.
        ChildProcessError: workers cannot start, the executor broke, or the cluster is gone. As
            after an interruption, the cells committed are kept.
    """
    _check_call(grid, data, workers)
    engine = _engine(grid, data)
    others = hired(workers, executor, grid.entries)
    most = 1 if others else _processes(processes_of(workers), grid, engine)
    source = data.name if source is None else absolute_data(source)
    own = {"plugins": [absolute_plugin(name) for name in plugins]}
    config = {"data": source, "size": data.size, **grid.config, **own}
    asked = _run(config, grid, data, engine)
    if out is not None:
        asked = replace(asked, definitions=_known(grid, engine))
    notify = progress or (lambda done, total: None)
    with Store.open(out, asked, {**machine(), "workers": others.name if others else most}) as store:
        engine = replace(engine, settings=replace(engine.settings, **store.run.engine))
        work = tasks(grid, store.done(), engine.settings.batch)
        count = min(most, len(work) if workers else suited_workers(work, engine))
        those = others or _own_workers(count, engine)
        fill(store, those, engine, work, notify, len(grid))
        table, failures = store.table(asked), store.failures(asked)
    if len(failures):
        raise failed(failures, table, len(grid))
    return table


@staying()
def _known(grid: Grid, engine: Engine) -> Definitions:
    """What each name of a run means, so that one that is defined anew is noticed."""
    return {**definitions(grid.entries, engine.split, grid.depth), **statistic_definitions()}


def fill(
    store: Store,
    workers: Workers,
    engine: Measuring[Cells],
    work: Sequence[Cells],
    notify: Progress,
    total: int,
) -> None:
    """Measure the cells that a store lacks of so many in total."""
    done = total - sum(task.total for task in work)
    notify(done, total)
    with closing(attempted(workers, engine, work)) as results:
        for task, outcome in results:
            if isinstance(outcome, Failure):
                store.fail(task.cells[0], outcome)
                continue
            pairs = zip(task.cells, outcome, strict=True)
            store.add_all([(cell, *result) for cell, result in pairs])
            for _ in outcome:
                notify(done := done + 1, total)


def asked_for(grid: Grid, data: Dataset, workers: int | None) -> tuple[Engine, Run, int]:
    """The engine of a sweep, what its store is to know, and how many processes it is worth.

    Raises:
        ValueError, TypeError: as `run_sweep`.
    """
    _check_call(grid, data, workers)
    engine = _engine(grid, data)
    asked = _run({"data": data.name, **grid.config, "plugins": []}, grid, data, engine)
    return engine, asked, _processes(workers, grid, engine)


def chosen_samples(grid: Grid, data: Dataset) -> Split:
    """The samples of a dataset that a grid asks for.

    Raises:
        ValueError: a split that the dataset does not have, or more samples than it holds.
    """
    split: Split | None = getattr(data, grid.split)
    if split is None:
        raise ValueError(f"split: dataset {data.name!r} has no {grid.split!r} split")
    if grid.samples is not None and grid.samples > len(split):
        raise ValueError(
            f"samples: {grid.samples} are asked for, and the {grid.split} split of {data.name!r} "
            f"holds {len(split)}"
        )
    return split.first(grid.samples or len(split))


def fingerprint(grid: Grid, data: Dataset) -> str:
    """What tells the data of a run from others.

    It is made of the whole split, as `samples` says how much of that is seen, and of the samples
    that an init is fitted on.

    Raises:
        ValueError: as `chosen_samples`.
    """
    chosen_samples(grid, data)
    seen = f"{getattr(data, grid.split).fingerprint} {_fit(data).fingerprint}"
    return hashlib.sha256(seen.encode()).hexdigest()[:16]


def _check_call(grid: object, data: object, workers: Hands) -> None:
    """Refuse a call that no grid or dataset could make right; the errors are `run_sweep`'s."""
    if not (isinstance(grid, Grid) and isinstance(data, Dataset)):
        raise TypeError(
            f"run_sweep takes a Grid and a Dataset, not {type(grid).__name__} and "
            f"{type(data).__name__}: load_data gives a Dataset"
        )
    if workers != 1:
        check_guard()


def _fit(data: Dataset) -> Split:
    """The samples that an init is fitted on."""
    return data.train.first(min(FIT_SAMPLES, len(data.train)))


def _engine(grid: Grid, data: Dataset) -> Engine:
    split = chosen_samples(grid, data)
    for entry in grid.every_network:
        leaves = entry.on(split.shape, grid.widths[0], grid.depth).leaves()
        try:
            check_batches(leaves, len(split))
        except ValueError as error:
            raise ValueError(f"network {entry.name!r}: {error}") from None
    settings = Settings(
        grid.depth, len(split), backward=grid.backward, dtype=grid.dtype, device=grid.device
    )
    seeds = min(len(grid.seeds), grid.check_memory(split.shape))
    return Engine(split, _fit(data), settings.suited(seeds), notes_of(grid, split.shape))


def _run(config: dict[str, Any], grid: Grid, data: Dataset, engine: Engine) -> Run:
    """What the store is to know of a sweep."""
    settings = asdict(engine.settings)
    asked = ("depth", "samples", "backward", "dtype", "device")
    fixed = {"split": grid.split} | {name: settings.pop(name) for name in asked}
    if data.size:
        fixed["size"] = data.size
    return Run(
        config=config,
        settings={"dataset": data.name, "data": fingerprint(grid, data)} | fixed,
        engine=settings,
        keys=KEYS,
        places=PLACES,
        statistics={name: entry.integer for name, entry in STATISTICS.items()}
        | dict.fromkeys(engine.notes, False),
        bins=(bin_edges()[0].tolist(), bin_edges()[1].tolist()),
        parameters=parameters_of(grid.entries),
        notes=list(engine.notes),
        parts=parts_of(grid, engine.split.shape),
        extended_networks={
            each.name: is_extended(each, grid.widths[0], grid.depth) for each in grid.every_network
        },
        paired=grid.paired,
    )


def notes_of(grid: Grid, shape: tuple[int, ...]) -> tuple[str, ...]:
    """The columns of what the blocks of the networks note."""
    placed = (each.on(shape, grid.widths[0], grid.depth) for each in grid.every_network)
    return tuple(dict.fromkeys(name for network in placed for name in network.numbers))


def parts_of(grid: Grid, shape: tuple[int, ...]) -> dict[str, list[str]]:
    """The kinds of the layers of each network, of none where all networks are plain stacks."""
    placed = {each.name: each.on(shape, grid.widths[0], grid.depth) for each in grid.every_network}
    if not any(leaf.outputs.part for network in placed.values() for leaf in network.leaves()):
        return {}
    return {name: network.parts for name, network in placed.items()}


def _processes(workers: int | None, grid: Grid, engine: Engine) -> int:
    """How many processes may share the work; a ValueError where that cannot be as it was asked."""
    if workers is not None and workers < 1:
        raise ValueError(f"workers: at least one is needed, not {workers}")
    count = workers or suited_workers(tasks(grid, (), engine.settings.batch), engine)
    if count > 1:
        try:
            for name in STATISTICS:
                check_importable("statistic", name, STATISTICS.family(name).module)
            pickle.dumps(grid.entries)
        except pickle.PicklingError as error:
            if workers is None:
                return 1
            raise ValueError(str(error)) from error
    return count


def _own_workers(count: int, engine: Engine) -> Workers:
    if count <= 1:
        return ThisProcess()
    warm_up(engine.settings.place["dtype"])  # compiles the kernels, for workers to find
    return OwnProcesses(count)
