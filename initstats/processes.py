"""Processes that work for this one: each is held by a thread, and leaves when this one is gone.

One process does one call at a time, so that it is known which call ended it; another process takes
its place.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import pickle
import signal
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import current_process, get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Literal
from weakref import WeakSet

from initstats.failure import Failure
from initstats.mapped import dumps_mapped

STARTS = 3
"""So many times in a row a process may be killed while it starts."""
GRACE = 5
"""The seconds after which a process that does not leave is killed."""
_CALL, _GIFT = b"call", b"gift"
_SPAWN = get_context("spawn")  # a fork of a process with threads may hang


class LostError(Exception):
    """The process that did a call has ended."""


class StartError(ChildProcessError):
    """No process can start."""


@dataclass
class _Job:
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    future: Future[Any] = field(default_factory=Future)


class Processes(Executor):
    """An executor of processes of our own, which start at once.

    A call's result is what its function returns. A function that raises gives a ChildProcessError
    that tells of it in words; a process that ends during a call, a `LostError`. Where a process
    cannot start, the others do its work; the last of them gives a `StartError`.

    Args:
        count: how many.
        prepare: what each does as it starts.
    """

    def __init__(self, count: int, prepare: Callable[[], None]) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._gift: bytes | None = None
        self._members = [_Member(prepare) for _ in range(count)]
        self._able, self._counting, self._is_open = count, Lock(), True
        self._threads = [
            Thread(target=self._hold, args=(member,), daemon=True) for member in self._members
        ]
        _open.add(self)
        for thread in self._threads:
            thread.start()

    def give(self, gift: object) -> None:
        """Send something to each process before its next call, which finds it with `given`.

        Arrays that are mapped from a file go by its name.
        """
        self._gift = dumps_mapped(gift)

    def submit(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        """See `Executor.submit`."""
        job = _Job(partial(function, **named) if named else function, args)
        self._jobs.put(job)
        return job.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `Executor.shutdown`."""
        self._is_open = False  # nobody looks for jobs that are put back
        with suppress(Empty):
            while cancel_futures:
                if job := self._jobs.get_nowait():
                    job.future.cancel()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def kill(self) -> None:
        """End all processes at once, whatever they do."""
        for member in self._members:
            member.kill()
        self.shutdown(wait=False, cancel_futures=True)

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> Literal[False]:
        if kind is None:
            self.shutdown()
        else:
            self.kill()
        return False

    def _hold(self, member: _Member) -> None:
        """Hand one job after the other to a process."""
        if hasattr(signal, "pthread_sigmask"):  # else Windows
            # Python's tracker of what processes share unblocks Ctrl-C where it is started
            resource_tracker.ensure_running()
            # the process inherits this: Ctrl-C reaches all of a terminal, and the driver answers
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        with suppress(LostError, OSError):
            member.start()
        while job := self._jobs.get():
            if job.future.running() or job.future.set_running_or_notify_cancel():
                try:
                    job.future.set_result(member.call(job, self._gift))
                except StartError as error:
                    if self._is_last():
                        job.future.set_exception(error)
                    else:
                        self._jobs.put(job)
                        break
                except BaseException as error:  # noqa: BLE001 (who asked for the result gets it)
                    job.future.set_exception(error)
        member.end()

    def _is_last(self) -> bool:
        """Whether nobody else is left who could do what a member cannot."""
        with self._counting:
            self._able = max(1, self._able) - 1
            return self._able == 0 or not self._is_open


_open: WeakSet[Processes] = WeakSet()


def check_guard() -> None:
    """Refuse to start processes in one that itself is starting.

    Raises:
        RuntimeError: a script without its guard is run by the processes that it asks for.
    """
    if getattr(current_process(), "_inheriting", False):
        raise RuntimeError(
            "a starting worker ran this script again: put what asks for workers under "
            '`if __name__ == "__main__":`'
        )


def kill_processes() -> None:
    """End all processes that were not ended before."""
    for each in list(_open):
        each.kill()


atexit.register(kill_processes)  # before multiprocessing waits for them


class _Member:
    """A process, the next one in its place, and the pipe to it."""

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._prepare = prepare
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._gift: bytes | None = None
        self._lock = Lock()
        self._is_wanted, self._can_start = True, True

    def start(self) -> Connection:
        """The pipe to a process that is ready; a StartError where none comes to be."""
        for _ in range(STARTS * self._can_start):
            with self._lock:
                if not self._is_wanted:
                    raise LostError("the work was given up")
                if self._process and self._process.is_alive() and self._pipe:
                    return self._pipe
                self._gift, (self._pipe, far) = None, _SPAWN.Pipe()
                process = _SPAWN.Process(target=_serve, args=(far, self._prepare))
                process.start()
                self._process = process
                far.close()
            with suppress(EOFError, OSError):
                self._pipe.recv_bytes()
                return self._pipe
            process.join()
            if (process.exitcode or 0) >= 0:  # it will be so again
                break
        self._can_start = False
        raise StartError(
            "a worker process cannot start: is there memory for it? is the script that asks for "
            'workers guarded by `if __name__ == "__main__":`?'
        )

    def call(self, job: _Job, gift: bytes | None) -> Any:
        """The result of a job."""
        message = pickle.dumps((job.function, job.arguments))
        pipe = self.start()
        try:
            if gift is not None and self._gift is not gift:
                self._send(pipe, _GIFT, gift)
                self._gift = gift
            self._send(pipe, _CALL, message)
            answer = pipe.recv_bytes()
        except (EOFError, OSError) as error:
            raise LostError(self._epitaph()) from error
        result, failure = pickle.loads(answer)
        if failure:
            raise ChildProcessError(f"a worker process failed: {failure.error}")
        return result

    def end(self) -> None:
        """Let the process leave."""
        with self._lock:
            self._is_wanted = False
        if self._process and self._pipe:
            self._pipe.close()
            self._process.join(GRACE)
            self.kill()

    def kill(self) -> None:
        """End the process, and let no other take its place."""
        with self._lock:
            self._is_wanted = False
            if self._process:
                self._process.kill()
                self._process.join()

    def _epitaph(self) -> str:
        """How the process ended."""
        assert self._process
        self._process.join(GRACE)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            return "its worker process closed its pipe"
        if code >= 0:
            return f"its worker process ended with exit code {code}"
        how = signal.Signals(-code).name
        memory = ", as for want of memory" if how == "SIGKILL" else ""
        return f"its worker process was ended by {how}{memory}"

    @staticmethod
    def _send(pipe: Connection, kind: bytes, content: bytes) -> None:
        pipe.send_bytes(kind)
        pipe.send_bytes(content)


# what runs in such a process

_gifts: list[Any] = []
"""What was given last: as bytes, and once it was asked for, as itself."""


def given() -> Any:
    """What the driver sent to this process with `Processes.give`."""
    if isinstance(_gifts[0], bytes):
        _gifts[0] = pickle.loads(_gifts[0])
    return _gifts[0]


def _serve(pipe: Connection, prepare: Callable[[], None]) -> None:
    """Do what comes through a pipe until its other end is closed."""
    die_with_driver()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    calls: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_receive, args=(pipe, calls), daemon=True).start()
    prepare()
    answer = b"ready"
    with suppress(OSError):  # the driver is gone
        while True:
            pipe.send_bytes(answer)
            answer = _answer(calls.get())
            for stream in (sys.stdout, sys.stderr):
                with suppress(Exception):  # the user's code may have closed or replaced it
                    stream.flush()
    os._exit(0)


def _answer(call: bytes) -> bytes:
    """The pickled result of a call, or the failure of it."""
    try:
        function, arguments = pickle.loads(call)
        return pickle.dumps((function(*arguments), None), pickle.HIGHEST_PROTOCOL)
    except BaseException as error:  # noqa: BLE001 (the driver is told)
        return pickle.dumps((None, Failure.of(error)))


def _receive(pipe: Connection, calls: SimpleQueue[bytes]) -> None:
    """Take what comes, and leave when nothing can come any more, whatever goes on here."""
    try:
        while True:
            kind, content = pipe.recv_bytes(), pipe.recv_bytes()
            if kind == _GIFT:
                _gifts[:] = [content]
            else:
                calls.put(content)
    except (EOFError, OSError):
        os._exit(0)


def die_with_driver() -> None:
    """Ask Linux to end this process with the thread that started it, be it stuck or not."""
    if sys.platform == "linux":
        set_death_signal = 1
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
