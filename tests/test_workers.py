from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from initstats import workers
from initstats.failure import Failure
from initstats.processes import Processes, StartError, _Member
from initstats.workers import ByExecutor, OwnProcesses, ThisProcess, Workers


class UnpickledError(Exception):
    """It cannot cross to another process, and its message is code that fails."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("one")
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise RuntimeError("no words")


class OddError(BaseException):
    pass


FATAL = {
    -1: "ValueError: no root of -1",
    -2: "UnpickledError: <exception str() failed>",
    -3: "OddError: odd",
    -4: "SystemExit: 0",
    -5: "MemoryError",
    -6: "RecursionError: maximum recursion depth exceeded",
}
DEADLY = 1000


def deep(number: int) -> int:
    return deep(number) + 1


@dataclass
class Engine:
    """Squares a number; tells by whom, and how often it was unpickled there."""

    data: bytes = field(default=bytes(10**6), repr=False)
    arrivals: int = 0

    def __call__(self, task: int) -> tuple[int, int, int]:
        if task >= DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        if task == -6:
            deep(task)
        if task < 0:
            raise {
                -1: ValueError(f"no root of {task}"),
                -2: UnpickledError(1, 2),
                -3: OddError("odd"),
                -4: SystemExit(0),
                -5: MemoryError(),
            }[task]
        return task**2, os.getpid(), self.arrivals

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.arrivals += 1


class Counting(Executor):
    """Hands everything to another executor, and adds up what goes there."""

    def __init__(self, other: Executor) -> None:
        self.other, self.sent = other, 0

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        self.sent += len(pickle.dumps((function, args, options)))
        return self.other.submit(function, *args, **options)


class Here(Executor):
    """Does at once, in this process, what it is given."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args, **options))
        return future


@pytest.fixture(autouse=True)
def _these_tests_are_found_by_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process imports the classes that are defined here."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[1])])


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        yield executor


@pytest.mark.parametrize(
    "those",
    [ThisProcess(), OwnProcesses(2), ByExecutor(Here())],
    ids=["this process", "own processes", "an executor"],
)
def test_all_workers_do_all_tasks(
    those: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    deadly = [DEADLY, DEADLY + 1] if isinstance(those, OwnProcesses) else []
    outcomes = list(those.map(Engine(), [*range(9), *FATAL, *deadly, *range(9, 20)]))
    found: dict[int, Any] = dict(outcomes)
    assert len(outcomes) == len(found)  # nothing is done twice
    assert {task: found.pop(task)[0] for task in range(20)} == {task: task**2 for task in range(20)}
    for task in deadly:  # another process takes the place of the lost one
        failure = found.pop(task)
        assert failure.error == "its worker process was ended by SIGKILL, as for want of memory"
        assert failure.lost
    assert set(found) == set(FATAL)
    for task, error in FATAL.items():
        failure = found[task]
        assert isinstance(failure, Failure)
        assert failure.error == error
        assert not failure.lost
        assert "in __call__" in failure.traceback
        assert "initstats/workers.py" not in failure.traceback
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("able", [0, 1, 2])
def test_others_do_the_work_of_who_cannot_start(able: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed each time that it starts does not end the work."""
    members = list[_Member]()

    def start(member: _Member) -> None:
        members.extend({member} - {*members})
        if members.index(member) >= able:
            raise StartError("a worker process cannot start")

    def call(member: _Member, job: Any, _: object) -> object:
        start(member)
        return job.function(*job.arguments)

    monkeypatch.setattr(_Member, "start", start)
    monkeypatch.setattr(_Member, "call", call)
    with Processes(3, lambda: None) as those:
        results = [those.submit(abs, -number) for number in range(9)]
        if able:
            assert [each.result() for each in results] == [*range(9)]
        for each in () if able else results:
            with pytest.raises(ChildProcessError, match="a worker process cannot start"):
                each.result()


class Broken(Executor):
    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        raise BrokenExecutor("a process was terminated abruptly")


def test_a_broken_executor_is_told_of() -> None:
    with pytest.raises(ChildProcessError, match="the executor is broken.* committed is safe"):
        list(ByExecutor(Broken()).map(Engine(), [1]))


def test_an_engine_goes_to_each_process_once(processes: Executor) -> None:
    executor = Counting(processes)
    outcomes: dict[int, Any] = dict(ByExecutor(executor).map(Engine(), range(100)))
    assert {arrivals for _, _, arrivals in outcomes.values()} == {1}
    assert os.getpid() not in {process for _, process, _ in outcomes.values()}
    assert executor.sent < 100 * 300  # and not with the tasks
    outcomes = dict(ByExecutor(executor).map(Engine(bytes(5)), range(3)))  # another one
    assert {root: square for root, (square, _, _) in outcomes.items()} == {0: 0, 1: 1, 2: 4}


def test_threads_share_the_engine() -> None:
    engine = Engine()
    with ThreadPoolExecutor(3) as threads:
        executor = Counting(threads)
        assert dict(ByExecutor(threads).map(engine, range(9)))[8] == (64, os.getpid(), 0)
        assert dict(ByExecutor(executor).map(engine, range(9)))[8] == (64, os.getpid(), 1)


def test_workers_on_another_machine_are_sent_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes

    def elsewhere(path: Path) -> bytes:
        if threading.current_thread() is not threading.main_thread():
            raise FileNotFoundError(path)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", elsewhere)
    monkeypatch.setattr(workers, "_engines", {})
    with ThreadPoolExecutor(1) as far:
        executor = Counting(far)
        outcomes = []
        results: Any = ByExecutor(executor).map(Engine(), range(30))
        for task, (square, _, arrivals) in results:
            outcomes.append((task, square))
            assert arrivals == 1  # kept, however often it is sent
    assert sorted(outcomes) == [(task, task**2) for task in range(30)]
    assert executor.sent > 10**6


def slow(task: int) -> int:
    time.sleep(0.05)
    return task


def test_closing_drops_what_was_not_begun() -> None:
    with ThreadPoolExecutor(1) as executor:
        began = time.monotonic()
        with closing(ByExecutor(executor).map(slow, range(1000))) as results:
            assert next(results) == (0, 0)
    assert time.monotonic() - began < 10


STARTING = '''
import signal
import subprocess
from pathlib import Path

class Prepare:
    """Tells, as a worker reads it while it starts, which signals the worker is deaf to."""

    def __getstate__(self):
        return {"told": "yes"}

    def __setstate__(self, state):
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        Path("blocked").write_text(str(signal.SIGINT in blocked))

    def __call__(self):
        pass
'''


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal masks")
def test_a_starting_worker_is_deaf_to_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "starting.py").write_text(STARTING)
    code = (
        "from starting import Prepare\nfrom initstats.processes import Processes\n"
        'if __name__ == "__main__":\n'
        "    with Processes(1, Prepare()) as processes:\n"
        "        assert processes.submit(abs, -1).result() == 1\n"
    )
    (tmp_path / "script.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), str(Path(workers.__file__).parents[1])])
    subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        check=True,
        timeout=120,
    )
    assert (tmp_path / "blocked").read_text() == "True"
