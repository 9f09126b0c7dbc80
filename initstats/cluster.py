"""The workers of a Dask cluster: which does what is decided here, for a failure has one cause.

Dask would send a task whose worker died to the next one by itself, together with others that only
waited there, and blame all. So each batch of tasks is for one worker; what was lost with a worker
is known, and so is what it was at.
"""

from __future__ import annotations

import io
import math
import pickle
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from statistics import median
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Generic
from warnings import warn

import cloudpickle

from initstats.failure import Failure, in_a_line
from initstats.luggage import Done, Luggage, Parcel, do_batch, prepare, present
from initstats.machine import machine
from initstats.registry import Entry
from initstats.workers import Engine, Outcome, Task

if TYPE_CHECKING:
    from distributed import Client, Future

SECONDS_EACH = 1.0
"""The work of a batch: much more than the milliseconds that Dask takes for one."""
LONG = 5.0
"""Tasks of so many seconds wait here, so that the first worker that is free gets the next one."""
MOST = 1000
"""A batch has at most so many tasks."""
EVERY = 1.0
"""Seconds from one look at the workers to the next."""
PATIENCE = 5.0
"""Seconds to wait for a result that is ready, before we look whether its worker is there."""


@dataclass(frozen=True)
class OnDask:
    """The workers of a Dask cluster, which stay as they were; one that joins later takes part.

    Args:
        client: is connected to the cluster, and stays so.
        modules: define what the tasks are made of.
    """

    client: Client
    modules: Sequence[str]
    name: ClassVar[str] = "Dask"

    @classmethod
    def of(cls, client: Client, entries: Sequence[Entry]) -> OnDask:
        """The workers of a cluster for tasks that are made of some entries.

        Raises:
            ValueError: a client that is closed or asynchronous, or an entry that cannot be sent.
        """
        if client.asynchronous or client.status != "running":
            raise ValueError(
                f"workers: this Dask client is {client.status}"
                f"{' and asynchronous' * client.asynchronous}: connect another one"
            )
        return cls(client, modules_of(entries))

    def map(
        self, engine: Engine[Task, Outcome], tasks: Sequence[Task], *, alone: bool = False
    ) -> Generator[tuple[Task, Outcome | Failure]]:
        """See `Workers`.

        Raises:
            ChildProcessError: the scheduler is gone, or a worker cannot do any task.
            ValueError: an entry cannot be sent.
        """
        modules = getattr(engine, "modules", ())
        if "__main__" in modules:
            raise ValueError(
                "a statistic is defined in the script itself, which Dask workers do not have: put "
                "it into a module (a file.py) and import that"
            )
        luggage = Luggage.of([*modules, *self.modules])
        parcel = Parcel(luggage, dumps(engine))
        with _complaints(self.client):
            yield from _Dispatch(self.client, parcel, tasks, alone=alone).outcomes()


@dataclass(eq=False)
class _Batch(Generic[Task]):
    """Tasks that are out."""

    worker: str
    tasks: list[Task]
    future: Future
    patience: float = PATIENCE


class _Dispatch(Generic[Task, Outcome]):
    """The tasks that wait, the batches that are out, and the workers that may get more."""

    def __init__(
        self,
        client: Client,
        parcel: Parcel,
        tasks: Sequence[Task],
        *,
        alone: bool,
    ) -> None:
        self.client, self.parcel, self.alone = client, parcel, alone
        self.waiting = deque(tasks)
        self.delivered: Future | None = None
        self.out: dict[str, _Batch[Task]] = {}
        self.ready: SimpleQueue[Future] = SimpleQueue()
        self.seconds: deque[float] = deque(maxlen=15)
        self.at: dict[str, list[_Batch[Task]]] = {}  # what each worker has, oldest first
        self.threads: dict[str, int] = {}
        self.able: list[str] = []
        self.refused: set[str] = set()
        self.looked, self.is_deserted = -math.inf, False

    def outcomes(self) -> Generator[tuple[Task, Any]]:
        """Each task with its outcome or its failure."""
        self._ask_scheduler()
        try:
            while self.waiting or self.out:
                if time.monotonic() - self.looked > EVERY:
                    yield from self._look()
                self._send()
                with suppress(Empty):
                    future = self.ready.get(timeout=EVERY)
                    yield from self._received(future)
        finally:
            self._clear()

    # who is there

    def _ask_scheduler(self) -> None:
        """Make sure that the scheduler can read what passes through it."""
        try:
            self.client.run_on_scheduler(present)
        except OSError:
            raise
        except Exception as error:
            address = self.client.scheduler.address
            raise ChildProcessError(f"the Dask scheduler at {address} {_without(error)}") from error

    def _look(self) -> Generator[tuple[Task, Failure]]:
        """See who has come and who has gone."""
        if self.client.status != "running":
            raise ConnectionError
        self.threads |= (there := self.client.nthreads())
        for worker in [worker for worker in self.at if worker not in there]:
            yield from self._lose(worker)
        able: dict[str, int] = self.client.sync(self.client.scheduler.ncores_running)
        if fresh := able.keys() - self.at.keys() - self.refused:
            self._welcome(sorted(fresh))
        self.able = [worker for worker in able if worker in self.at]
        if not self.able and not self.is_deserted:
            address = self.client.scheduler.address
            warn(
                f"no worker is at {address} yet, and the tasks wait for one: "
                f"dask worker --nthreads 1 {address}",
                stacklevel=2,
            )
        self.is_deserted = not self.able
        self.looked = time.monotonic()
        if self.able and (self.delivered is None or self.delivered.status != "finished"):
            self._deliver()

    def _welcome(self, workers: list[str]) -> None:
        """Prepare workers that have come; one that cannot do the tasks must not get any."""
        answers = self.client.run(prepare, self.parcel.luggage, workers=workers, on_error="return")
        is_begun = self.delivered is not None
        for worker, answer in answers.items():
            if isinstance(answer, OSError):  # it has gone
                continue
            refusal, processor = answer if isinstance(answer, tuple) else (_without(answer), "")
            if refusal and not is_begun:
                raise ChildProcessError(f"Dask worker {worker} {refusal}")
            if refusal:
                warn(f"Dask worker {worker} gets no tasks: it {refusal}", stacklevel=2)
                self.refused.add(worker)
                continue
            self.at[worker] = []
            if processor != (here := machine()["processor"]) and not is_begun:
                warn(
                    f"Dask worker {worker} has another processor ({processor}) than this process "
                    f"({here}), so that last digits may differ",
                    stacklevel=2,
                )

    def _deliver(self) -> None:
        """Send what all tasks share to the workers; those that come later get it from these."""
        for batch in list(self.out.values()):  # they wait for what was lost with its workers
            self._recall(batch)
        try:
            self.delivered = self.client.scatter(
                self.parcel, workers=self.able, broadcast=True, hash=False
            )
        except (KeyError, TimeoutError):  # one of them has gone since: the next look tells which
            self.delivered, self.able = None, []

    def _lose(self, worker: str) -> Generator[tuple[Task, Failure]]:
        """Give up a worker that has gone: what it was at is lost, what waited there waits again."""
        batches = self.at.pop(worker)
        for batch in reversed(batches[self.threads[worker] :]):
            self._recall(batch)
        failure = Failure("its Dask worker is gone, as for want of memory", lost=True)
        for batch in batches:
            if self.out.pop(batch.future.key, None):
                batch.future.cancel()
                yield from ((task, failure) for task in batch.tasks)

    # what is out

    def _send(self) -> None:
        """Give each worker a batch to do, and one to go on with."""
        pace = median(self.seconds) if self.seconds else math.inf
        long = math.isfinite(pace) and pace > LONG
        for count in range(1 if self.alone or long else 2):
            for worker in self.able:
                if self.waiting and len(self.at[worker]) == count:
                    self._submit(worker, self._size(pace))

    def _size(self, pace: float) -> int:
        """How many tasks of so many seconds make a batch; fewer at the end, to end together."""
        if self.alone:
            return 1
        share = len(self.waiting) / (2 * len(self.able))
        return max(1, min(int(SECONDS_EACH / pace), math.ceil(share), MOST))

    def _submit(self, worker: str, size: int) -> None:
        tasks = [self.waiting.popleft() for _ in range(size)]
        future = self.client.submit(
            do_batch,
            self.delivered,
            [dumps(task) for task in tasks],
            workers=[worker],
            allow_other_workers=False,
            pure=False,
        )
        batch = _Batch(worker, tasks, future)
        self.at[worker].append(batch)
        self.out[future.key] = batch
        future.add_done_callback(self.ready.put)

    def _received(self, future: Future) -> Generator[tuple[Task, Any]]:
        """The outcomes of a batch that has come back."""
        if (batch := self.out.get(future.key)) is None:
            return  # given up before
        try:
            done = future.result(timeout=batch.patience)
        except TimeoutError:  # its worker died with it, or the network is slow
            batch.patience, self.looked = 2 * batch.patience, -math.inf
            self.ready.put(future)
            return
        except Exception as error:
            if self.client.status != "running":
                raise ConnectionError from error
            failure = Failure(f"its Dask worker is gone ({in_a_line(error)})", lost=True)
            done = Done([failure] * len(batch.tasks), math.nan)
        if isinstance(done, Failure):
            raise ChildProcessError(f"Dask worker {batch.worker} {done.error}")
        self._forget(batch)
        if math.isfinite(done.seconds):
            self.seconds.append(done.seconds / len(batch.tasks))
        self._send()
        yield from zip(batch.tasks, done.outcomes, strict=True)

    def _recall(self, batch: _Batch[Task]) -> None:
        """Let a batch wait again."""
        self._forget(batch)
        batch.future.cancel()
        self.waiting.extendleft(reversed(batch.tasks))

    def _forget(self, batch: _Batch[Task]) -> None:
        self.out.pop(batch.future.key, None)
        with suppress(KeyError, ValueError):
            self.at[batch.worker].remove(batch)

    def _clear(self) -> None:
        """Leave nothing of ours in the cluster."""
        futures = [batch.future for batch in self.out.values()]
        if self.delivered is not None:
            futures.append(self.delivered)
        self.out.clear()
        if self.client.status == "running":
            with suppress(OSError):
                self.client.cancel(futures)


@contextmanager
def _complaints(client: Client) -> Iterator[None]:
    """Say in a line that the cluster is gone, instead of what Dask says."""
    address = client.scheduler.address
    try:
        yield
    except ChildProcessError:
        raise
    except OSError as error:
        raise ChildProcessError(
            f"the Dask scheduler at {address} is gone; what was committed is safe: run the same "
            "again with another one to go on"
        ) from error


def _without(error: object) -> str:
    """What stands against a worker that cannot read even our question."""
    told = in_a_line(error) if isinstance(error, BaseException) else str(error)
    return f"cannot import this version of initstats ({told}): install it there"


# what is sent


def dumps(something: object) -> bytes:
    """Pickle; what no module defines, as a lambda, with its code."""
    stream = io.BytesIO()
    _Pickler(stream).dump(something)
    return stream.getvalue()


def modules_of(entries: Sequence[Entry]) -> list[str]:
    """The modules that a process needs to unpickle some entries.

    Raises:
        ValueError: an entry holds what cannot be sent.
    """
    found: dict[str, None] = {}
    for entry in entries:
        pickler = _Pickler(io.BytesIO())
        try:
            pickler.dump(entry)
        except (pickle.PicklingError, TypeError, AttributeError, ValueError) as error:
            noun = entry.catalog.noun
            raise ValueError(
                f"{noun} {entry.name!r} cannot be sent to Dask workers ({in_a_line(error)}): put "
                f"it into a module (a file.py) with @register_{noun}() and import that, or use "
                "workers=1"
            ) from error
        found |= pickler.modules
    return list(found)


class _Pickler(cloudpickle.Pickler):
    """Tells, too, in which modules it has found what it pickled by name."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.modules: dict[str, None] = {}

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Entry):
            if obj.module in ("", "__main__"):
                return obj.by_value
            self.modules[obj.module] = None
            return NotImplemented
        if isinstance(obj, FunctionType | type):
            self.modules[obj.__module__] = None
        elif isinstance(obj, ModuleType):
            self.modules[obj.__name__] = None
        return super().reducer_override(obj)
