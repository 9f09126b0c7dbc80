"""Who does the work: this process, a pool of its own, or any executor."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Collection, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Lock
from threading import Thread
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from initstats.activations import Activation
from initstats.data import Split
from initstats.inits import Init
from initstats.moments import warm_up
from initstats.networks import Network
from initstats.stack import Settings, run_stack
from initstats.store import Cell, pack
from initstats.sweep.grid import Grid

Outcome = list[tuple[NDArray[np.float64], bytes]]
"""Statistics and packed histograms, a pair for each cell of a task."""


class Task(NamedTuple):
    """Cells that are measured together: those of the activations share their draws of weights."""

    network: Network
    init: Init
    activations: tuple[Activation, ...]
    width: int
    seeds: tuple[int, ...]

    @property
    def cells(self) -> list[Cell]:
        """Their keys: all activations of a seed, then the next seed."""
        return [
            Cell(self.network.name, self.init.name, activation.name, self.width, seed)
            for seed, activation in product(self.seeds, self.activations)
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
        network = task.network.on(self.split.shape, task.width, self.settings.depth)
        results = run_stack(
            network, task.init, task.activations, task.seeds, self.split, self.fit, self.settings
        )
        return [(result.statistics, pack(result.histograms)) for result in results]


def tasks(grid: Grid, missing: Collection[Cell], batch: int) -> list[Task]:
    """The missing cells by draws of weights; all of some seeds before the next ones.

    So the table of an interrupted run is one of fewer seeds.

    Args:
        grid: what to vary.
        missing: which cells are left to measure.
        batch: as in `Settings`.
    """
    sharing: dict[int, list[int]] = {}
    for seed in grid.seeds:
        sharing.setdefault(seed // batch, []).append(seed)
    whole = (
        Task(network, init, grid.activations, width, tuple(seeds))
        for seeds, network, width, init in product(
            sharing.values(), grid.networks, grid.widths, grid.inits
        )
    )
    return [rest for task in whole for rest in _missing_of(task, missing)]


def _missing_of(task: Task, missing: Collection[Cell]) -> list[Task]:
    """What is left of a task: one for the seeds that lack the same activations."""
    lacking: dict[tuple[Activation, ...], list[int]] = {}
    for seed in task.seeds:
        cells = zip(task.activations, task._replace(seeds=(seed,)).cells, strict=True)
        lacks = tuple(activation for activation, cell in cells if cell in missing)
        lacking.setdefault(lacks, []).append(seed)
    return [
        task._replace(activations=lacks, seeds=tuple(seeds))
        for lacks, seeds in lacking.items()
        if lacks
    ]


def outcomes(
    work: Sequence[Task], engine: Engine, workers: int, executor: Executor | None
) -> Generator[tuple[Task, Outcome]]:
    """The tasks as they are done, in any order; closing it drops what was not begun.

    Raises:
        ChildProcessError: a worker died.
    """
    if executor is not None:
        yield from _completed({executor.submit(engine.run, task): task for task in work})
    elif min(workers, len(work)) > 1:
        yield from _by_pool(work, engine, min(workers, len(work)))
    else:
        yield from ((task, engine.run(task)) for task in work)


def _completed(
    futures: dict[Future[Outcome], Task],
) -> Generator[tuple[Task, Outcome]]:
    try:
        for future in as_completed(list(futures)):
            yield futures.pop(future), future.result()
    finally:
        for future in futures:
            future.cancel()


def _by_pool(work: Sequence[Task], engine: Engine, workers: int) -> Generator[tuple[Task, Outcome]]:
    warm_up()  # compiles the kernels, for workers to find
    context = get_context("spawn")  # a fork of a process with threads may hang
    # Not among the arguments of a worker's start: each would wait for the one before it to have
    # imported torch.
    desk, sender = context.Pipe(duplex=False)
    Thread(target=_send, args=(sender, pickle.dumps(engine), workers), daemon=True).start()
    pool = ProcessPoolExecutor(workers, context, _hire, (desk, context.Lock()))
    try:
        with _interrupts_blocked():
            # pickled here: a worker that cannot read its task says why, and does not die of it
            futures = {pool.submit(_run_pickled, pickle.dumps(task)): task for task in work}
        yield from _completed(futures)
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker process died: was it killed, as for want of memory? is the script that asks "
            'for workers guarded by `if __name__ == "__main__":`? What was committed is safe: run '
            "the same again to go on"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        desk.close()


def _send(sender: Connection, engine: bytes, times: int) -> None:
    with sender, suppress(OSError):  # workers that died will not read it
        for _ in range(times):
            sender.send_bytes(engine)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C waits, for us and for the processes that we start: these until they allow it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# in a worker

_hired: Engine | None = None
"""The engine of the run."""


def _hire(desk: Connection, queue: Lock) -> None:
    global _hired
    Thread(target=_leave_with_driver, daemon=True).start()
    # Ctrl-C reaches all processes of a terminal: the driver speaks, workers just stop
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    torch.set_num_threads(1)
    with queue:
        _hired = pickle.loads(desk.recv_bytes())


def _leave_with_driver() -> None:
    """A driver that is killed cannot tell its workers, who would wait for tasks for ever."""
    driver = parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)


def _run_pickled(task: bytes) -> Outcome:
    assert _hired is not None
    return _hired.run(pickle.loads(task))
