"""The workers of a study: this process, processes of its own, or any executor.

A task is small and an engine is large, for it holds the data. So the engine goes to each worker
once, and not with every task. A task that raises an error, or whose worker dies, has a `Failure`
in place of its outcome; the others go on.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any, ClassVar, Protocol, TypeVar

import torch

from initstats.drafts import draft_file
from initstats.failure import Failure
from initstats.processes import LostError, Processes, given

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")
Engine = Callable[[Task], Outcome]
"""What turns a task into its outcome; it can be pickled, with the data that it holds."""


class Workers(Protocol):
    """What does tasks."""

    @property
    def name(self) -> str:
        """What they are."""
        ...

    def map(
        self, engine: Engine[Task, Outcome], tasks: Sequence[Task], *, alone: bool = False
    ) -> Generator[tuple[Task, Outcome | Failure]]:
        """Each task with its outcome or its failure as it is done, in any order.

        Closing the generator drops the tasks that were not begun.

        Args:
            alone: a worker gets a task only when it has no other one, for one that ends its worker
                is among these.
        """
        ...


class ThisProcess:
    """One task after another, in this process."""

    name: ClassVar[str] = "this process"

    def map(
        self, engine: Engine[Task, Outcome], tasks: Sequence[Task], *, alone: bool = False
    ) -> Generator[tuple[Task, Outcome | Failure]]:
        """See `Workers`."""
        yield from ((task, tried(engine, task)) for task in tasks)


@dataclass(frozen=True)
class OwnProcesses:
    """Processes that start for the tasks and end with them, each with one torch thread."""

    count: int

    name: ClassVar[str] = "processes"

    def map(
        self, engine: Engine[Task, Outcome], tasks: Sequence[Task], *, alone: bool = False
    ) -> Generator[tuple[Task, Outcome | Failure]]:
        """See `Workers`.

        Raises:
            ChildProcessError: a worker cannot start, or not read the engine.
        """
        with Processes(min(self.count, len(tasks)), _prepare) as processes:
            processes.give(engine)
            yield from _completed(
                {processes.submit(_do_given, pickle.dumps(task)): task for task in tasks}
            )


@dataclass(frozen=True)
class ByExecutor:
    """The workers of any executor, which may outlive the tasks; threads share the engine itself.

    A worker that cannot read the engine's file, as on another machine, gives its task back, which
    is then submitted together with the engine.
    """

    executor: Executor

    name: ClassVar[str] = "an executor"

    def map(
        self, engine: Engine[Task, Outcome], tasks: Sequence[Task], *, alone: bool = False
    ) -> Generator[tuple[Task, Outcome | Failure]]:
        """See `Workers`.

        Raises:
            ChildProcessError: the executor is broken.
        """
        submit = self.executor.submit
        if isinstance(self.executor, ThreadPoolExecutor):
            yield from _completed({submit(tried, engine, task): task for task in tasks})
            return
        with draft_file(".pickle") as file:
            with file.open("wb") as stream:
                pickle.dump(engine, stream)

            def again(task: Task) -> Future[Any]:
                return submit(_do, str(file), pickle.dumps(task), file.read_bytes())

            try:
                futures = {submit(_do, str(file), pickle.dumps(task)): task for task in tasks}
                yield from _completed(futures, again)
            except BrokenExecutor as error:
                raise ChildProcessError(
                    "the executor is broken, as when one of its processes is killed; what was "
                    "committed is safe: run the same again with another one to go on"
                ) from error


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
            task, outcome = futures.pop(future), _outcome(future)
            if outcome is not NoEngine:
                yield task, outcome
            elif again:
                futures[future := again(task)] = task
                future.add_done_callback(done.put)
    finally:
        for future in futures:
            future.cancel()


def _outcome(future: Future[Any]) -> Any:
    """What became of a task; an error that is not the task's own is raised."""
    try:
        return future.result()
    except LostError as error:
        return Failure(str(error), lost=True)
    except (OSError, BrokenExecutor, CancelledError):
        raise
    except Exception as error:  # noqa: BLE001 (executors have words of their own for a lost worker)
        return replace(Failure.of(error), lost=True)


def tried(engine: Engine[Task, Outcome], task: Task) -> Outcome | Failure:
    """The outcome of a task, or the failure that an error of whatever kind means."""
    try:
        return engine(task)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 (a failure is a result)
        return Failure.of(error)


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
    return tried(lambda pickled: engine(pickle.loads(pickled)), task)


def _do_given(task: bytes) -> Any:
    """The outcome of a pickled task by the engine that this process was given."""
    engine: Engine[Any, Any] = given()
    return tried(lambda pickled: engine(pickle.loads(pickled)), task)


def _prepare() -> None:
    """Prepare a worker process."""
    torch.set_num_threads(1)
