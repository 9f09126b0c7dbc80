"""Who does the work: this process, a pool of its own, or any executor."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable, Collection, Generator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.data import Split
from initstats.inits import Init
from initstats.moments import warm_up
from initstats.stack import Settings, run_stack
from initstats.store import Cell, pack
from initstats.sweep.grid import Grid

Outcome = list[tuple[NDArray[np.float64], bytes]]
"""Statistics and packed histograms, a pair for each cell of a task."""


class Task(NamedTuple):
    """Cells that share a draw of weights."""

    network: str
    init: Init
    activations: tuple[Activation, ...]
    width: int
    seed: int

    @property
    def cells(self) -> list[Cell]:
        """Their keys, one an activation."""
        return [
            Cell(self.network, self.init.name, activation.name, self.width, self.seed)
            for activation in self.activations
        ]


@dataclass(frozen=True)
class Engine:
    """What all tasks of a run have in common; it goes to a worker once.

    Args:
        split: the samples to measure.
        fit: the samples that a data-dependent init is fitted on.
        settings: the run's.
    """

    split: Split
    fit: Split
    settings: Settings

    def run(self, task: Task) -> Outcome:
        """Measure the cells of a task, in their order."""
        results = run_stack(*task, self.split, self.fit, self.settings)
        return [(result.statistics, pack(result.histograms)) for result in results]


def tasks(grid: Grid, missing: Collection[Cell]) -> list[Task]:
    """The missing cells by draw of weights; all of a seed before the next one.

    So the table of an interrupted run is one of fewer seeds.
    """
    whole = (
        Task(grid.network, init, grid.activations, width, seed)
        for seed, width, init in product(grid.seeds, grid.widths, grid.inits)
    )
    rest = (
        task._replace(
            activations=tuple(
                activation
                for activation, cell in zip(task.activations, task.cells, strict=True)
                if cell in missing
            )
        )
        for task in whole
    )
    return [task for task in rest if task.activations]


def outcomes(
    work: Sequence[Task], engine: Engine, workers: int, executor: Executor | None
) -> Generator[tuple[Task, Outcome]]:
    """The tasks as they are done, in any order; closing it drops what was not begun.

    Raises:
        ChildProcessError: a worker died.
    """
    if executor is not None:
        yield from _completed(lambda task: executor.submit(engine.run, task), work)
    elif min(workers, len(work)) > 1:
        yield from _by_pool(work, engine, min(workers, len(work)))
    else:
        yield from ((task, engine.run(task)) for task in work)


def _completed(
    submit: Callable[[Task], Future[Outcome]], work: Sequence[Task]
) -> Generator[tuple[Task, Outcome]]:
    futures = {submit(task): task for task in work}
    try:
        for future in as_completed(list(futures)):
            yield futures.pop(future), future.result()
    finally:
        for future in futures:
            future.cancel()


def _by_pool(work: Sequence[Task], engine: Engine, workers: int) -> Generator[tuple[Task, Outcome]]:
    # spawned, since a fork of threads that hold locks may hang; kernels are compiled once, here
    warm_up()
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _hire, (engine,))
    try:
        # pickled here: a worker that cannot read a task then says why, and does not die of it
        yield from _completed(lambda task: pool.submit(_run_pickled, pickle.dumps(task)), work)
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker process died: was it killed, as for want of memory? is the script that asks "
            'for workers guarded by `if __name__ == "__main__":`? What was committed is safe: run '
            "the same again to go on"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_hired: Engine | None = None
"""In a worker: the engine of its run."""


def _hire(engine: Engine) -> None:
    global _hired
    _hired = engine
    torch.set_num_threads(1)
    # Ctrl-C reaches all processes of a terminal: the driver speaks, workers just stop
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _run_pickled(task: bytes) -> Outcome:
    assert _hired is not None
    return _hired.run(pickle.loads(task))
