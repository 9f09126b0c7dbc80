"""The workers of a study: this process, processes of its own, or any executor.

A task is small and an engine is large, for it holds the data. So the engine goes to each worker
once, by a file that the worker reads, and not with every task.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from queue import SimpleQueue
from tempfile import mkstemp
from threading import Lock, Thread
from typing import Any, Protocol, TypeVar

import torch

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")
Engine = Callable[[Task], Outcome]
"""What turns a task into its outcome; it can be pickled, with the data that it holds."""


class Workers(Protocol):
    """What does tasks."""

    def map(
        self, engine: Engine[Task, Outcome], tasks: Sequence[Task]
    ) -> Generator[tuple[Task, Outcome]]:
        """Each task with its outcome as it is done, in any order.

        Closing the generator drops the tasks that were not begun.
        """
        ...


class ThisProcess:
    """One task after another, in this process."""

    def map(
        self, engine: Engine[Task, Outcome], tasks: Sequence[Task]
    ) -> Generator[tuple[Task, Outcome]]:
        """See `Workers`."""
        yield from ((task, engine(task)) for task in tasks)


@dataclass(frozen=True)
class OwnProcesses:
    """Processes that start for the tasks and end with them, each with one torch thread."""

    count: int

    def map(
        self, engine: Engine[Task, Outcome], tasks: Sequence[Task]
    ) -> Generator[tuple[Task, Outcome]]:
        """See `Workers`.

        Raises:
            ChildProcessError: a worker died.
        """
        context = get_context("spawn")  # a fork of a process with threads may hang
        with _written(engine) as file:
            pool = ProcessPoolExecutor(self.count, context, _start, (file,))
            try:
                with _interrupts_blocked():
                    futures = {pool.submit(_do, file, pickle.dumps(task)): task for task in tasks}
                yield from _completed(futures)
            except BrokenProcessPool as error:
                raise ChildProcessError(
                    "a worker process died: was it killed, as for want of memory? is the script "
                    'that asks for workers guarded by `if __name__ == "__main__":`? What was '
                    "committed is safe: run the same again to go on"
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class ByExecutor:
    """The workers of any executor, which may outlive the tasks; threads share the engine itself.

    A worker that cannot read the engine's file, as on another machine, gives its task back, which
    is then submitted together with the engine.
    """

    executor: Executor

    def map(
        self, engine: Engine[Task, Outcome], tasks: Sequence[Task]
    ) -> Generator[tuple[Task, Outcome]]:
        """See `Workers`."""
        submit = self.executor.submit
        if isinstance(self.executor, ThreadPoolExecutor):
            yield from _completed({submit(engine, task): task for task in tasks})
            return
        with _written(engine) as file:

            def again(task: Task) -> Future[Any]:
                return submit(_do, file, pickle.dumps(task), Path(file).read_bytes())

            futures = {submit(_do, file, pickle.dumps(task)): task for task in tasks}
            yield from _completed(futures, again)


def _completed(
    futures: dict[Future[Any], Task], again: Callable[[Task], Future[Any]] | None = None
) -> Generator[tuple[Task, Any]]:
    """The tasks as they are done; one that was given back is submitted again."""
    done: SimpleQueue[Future[Any]] = SimpleQueue()
    for future in futures:
        future.add_done_callback(done.put)
    try:
        while futures:
            future = done.get()
            task, outcome = futures.pop(future), future.result()
            if outcome is not NoEngine:
                yield task, outcome
            elif again:
                futures[future := again(task)] = task
                future.add_done_callback(done.put)
    finally:
        for future in futures:
            future.cancel()


@contextmanager
def _written(engine: Engine[Any, Any]) -> Iterator[str]:
    """A file that holds an engine, for workers to read."""
    number, file = mkstemp(prefix="initstats-", suffix=".pickle")
    try:
        with os.fdopen(number, "wb") as stream:
            pickle.dump(engine, stream)
        yield file
    finally:
        with suppress(OSError):
            Path(file).unlink()


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


# what runs in a worker


class NoEngine:
    """The outcome of a task whose worker cannot read the engine."""


_engines: dict[str, Engine[Any, Any]] = {}
"""The engine that was used last, by its file."""
_loading = Lock()


def _do(file: str, task: bytes, data: bytes | None = None) -> Any:
    """The outcome of a pickled task: a worker that cannot read it says why, and does not die.

    The file, or for a worker that cannot read that the data, holds the pickled engine.
    """
    with _loading:
        if file not in _engines:
            try:
                data = data or Path(file).read_bytes()
            except OSError:
                return NoEngine
            _engines.clear()
            _engines[file] = pickle.loads(data)
        engine = _engines[file]
    return engine(pickle.loads(task))


def _start(file: str) -> None:
    """Prepare a worker process."""
    Thread(target=_leave_with_driver, args=(file,), daemon=True).start()
    # Ctrl-C reaches all processes of a terminal: the driver speaks, workers just stop
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    torch.set_num_threads(1)


def _leave_with_driver(file: str) -> None:
    """A driver that is killed cannot tell its workers, which would wait for tasks for ever."""
    driver = parent_process()
    assert driver is not None
    driver.join()
    with suppress(OSError):
        Path(file).unlink()
    os._exit(1)
