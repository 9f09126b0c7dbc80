"""Real processes meet with faults, in every phase: nothing is lost, nobody stays behind.

The marker `faults` tries each fault INITSTATS_FAULTS times.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest import mock
from uuid import uuid4

import pandas as pd
import psutil
import pytest

import initstats as ist
from initstats import drafts
from initstats.store import StoreError, load_run
from initstats.sweep import load_plugins

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="what a process listens to is read from /proc"
)
PATIENCE = 300
"""Seconds for what takes a few on an idle machine."""

OWN = """
import locale, multiprocessing, sys, time
from functools import wraps
from importlib import import_module
from pathlib import Path
import torch
import initstats as ist

def told(module, name):
    module = import_module(module)
    function = getattr(module, name)

    @wraps(function)
    def telling(*args, **named):
        Path(name).touch()
        return function(*args, **named)

    setattr(module, name, telling)

if "-m" in sys.orig_argv or multiprocessing.parent_process():
    locale.setlocale(locale.LC_ALL, "")

is_driver = multiprocessing.parent_process() is None and "-m" in sys.orig_argv
if is_driver:
    told("initstats.prediction", "predict_run")
    told("initstats.report.study", "figures_of")

@ist.register_activation()
def stuck(x):
    if Path("stick").exists() and multiprocessing.parent_process():
        Path("stuck").touch()
        while True:
            pass
    return x * 1

class Slow(torch.nn.Linear):
    def forward(self, x):
        Path("forward").touch()
        time.sleep(600)

def model():
    return Slow(4, 4)
"""
GRID: dict[str, Any] = {"inits": ["kaiming_normal", "lsuv"], "depth": 3, "samples": 100, "seeds": 3}


Whole = Callable[[str, str], pd.DataFrame]
Tell = Callable[[str, list[dict[str, str]], int], None]


def grid_of(activation: str) -> ist.Grid:
    return ist.Grid(**GRID, activations=[activation])


def options(**fields: object) -> list[str]:
    """The grid on a command line, changed by some fields."""
    listed = {k: ",".join(v) if isinstance(v, list) else v for k, v in (GRID | fields).items()}
    return [word for key, value in listed.items() for word in (f"--{key}", str(value))]


class Phase(NamedTuple):
    """A command, the activation of its study, and how its folder tells that it has come so far."""

    command: list[str]
    activation: str
    is_there: Callable[[Path], bool]


def sweep(activation: str, workers: int = 2, **fields: object) -> list[str]:
    command = ["sweep", *options(activations=[activation], **fields), "--workers", str(workers)]
    return [*command, "--no-backward", "--theory", "--out", "run", "--plugin", "own.py"]


def cells(folder: Path) -> int:
    """How many cells are committed."""
    file = folder / "run" / "run.sqlite"
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as run:
        return int(run.execute("SELECT count(*) FROM cell").fetchone()[0])
    return 0


def touched(name: str) -> Callable[[Path], bool]:
    return lambda folder: (folder / name).exists()


TIMES = int(os.environ.get("INITSTATS_FAULTS", "5"))
BENCH = ["bench", "--workloads", "S10", "--quick"]
PHASES = {
    "start": Phase(sweep("relu"), "relu", lambda folder: True),
    "sweep": Phase(sweep("relu", seeds=4000), "relu", lambda folder: cells(folder) > 2),
    "stuck": Phase(sweep("stuck"), "stuck", touched("stuck")),
    "predictions": Phase(sweep("relu"), "relu", touched("predict_run")),
    "page": Phase(sweep("relu"), "relu", touched("figures_of")),
    "page alone": Phase(sweep("relu", workers=1), "relu", touched("figures_of")),
    "measure": Phase(["measure", "own.py:model", "--input", "9,4"], "", touched("forward")),
    "bench": Phase(BENCH, "", lambda folder: True),
    "lesson": Phase(["foundations", "--seeds", "10", "--out", "page"], "", lambda folder: True),
    "many": Phase(sweep("relu", seeds=300), "relu", lambda folder: cells(folder) > 2),
    "theory": Phase(["theory", "relu", "tanh", "--out", "page"], "", lambda folder: True),
    "list": Phase(["list", "--plugin", "own.py"], "", lambda folder: True),
}


class Trial:
    """A command at work in a folder, until a fault comes to it."""

    def __init__(
        self, phase: str, folder: Path, prepare: Callable[[], object] = int, **environment: str
    ) -> None:
        self.phase, self.folder, self.err = PHASES[phase], folder, ""
        self.temporary, self.committed = folder / f"temporary {uuid4()}", 0
        self.temporary.mkdir(parents=True)
        (folder / "own.py").write_text(OWN)
        if phase == "stuck":
            (folder / "stick").touch()
        own = {"TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"}

        def begin() -> None:
            for number in (signal.SIGINT, signal.SIGHUP):
                # who starts a program in the background may have had it ignore these
                signal.signal(number, signal.SIG_DFL)
            prepare()

        self.process = subprocess.Popen(
            [sys.executable, "-m", "initstats", *self.phase.command],
            cwd=folder,
            env={name: os.environ[name] for name in os.environ.keys() - {"OMP_WAIT_POLICY"}}
            | own
            | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            preexec_fn=begin,
        )

    def is_there(self) -> bool:
        """Whether the phase has come, or the command has ended."""
        if self.process.poll() is not None:
            return True
        return self._listens() and self.phase.is_there(self.folder)

    def strike(self, number: int, target: str) -> bool:
        """Send a signal to the driver, to all, or to a worker; whether there was one."""
        self.committed = cells(self.folder)
        if self.process.poll() is not None:
            return False
        if target == "driver":
            self.process.send_signal(number)
        elif target == "group":
            os.killpg(self.process.pid, number)
        else:
            workers = [each for each in psutil.Process(self.process.pid).children() if works(each)]
            if not workers:
                return False
            random.choice(workers).send_signal(number)
        return True

    def defects(self, whole: Whole, *codes: int) -> dict[str, str]:
        """What is wrong after the end, by its name, where some exit codes are right."""
        found = {}
        try:
            _, self.err = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            found["stuck"] = str(self.process.args)
            self.process.kill()
        code = self.process.returncode
        if left := self._who_stays():
            found["orphans"] = str([each.cmdline() for each in left])
            for each in left:
                each.kill()
        if "Traceback" in self.err:
            found["tracebacks"] = self.err
        elif code not in codes or self.err.count("\n") != (code > 0):
            found["unclear"] = f"{code}: {self.err}"
        if code == -signal.SIGKILL:  # whoever comes next sweeps
            drafts.sweep_drafts(self.folder / "run", ".draft-")
            drafts.sweep_drafts(self.temporary)
        if rest := [*self.temporary.iterdir(), *self.folder.rglob(".draft-*")]:
            found["left"] = str(rest)
        return found | (self._of_the_run(whole) if self.phase.activation else {})

    def _of_the_run(self, whole: Whole) -> dict[str, str]:
        """What is wrong with the run, which goes on here to what it would have been."""
        run, found = self.folder / "run", {}
        if (run / "run.sqlite").exists():
            with closing(sqlite3.connect(run / "run.sqlite")) as connection:
                verdict = connection.execute("PRAGMA integrity_check").fetchone()[0]
            if verdict != "ok" or cells(self.folder) < self.committed:
                found["lost"] = f"{cells(self.folder)} of {self.committed} cells, {verdict}"
            try:
                ist.load_table(run)
            except StoreError as error:
                if "never began" not in str(error):
                    found["partial"] = str(error)
        resumed = ist.run_sweep(grid_of(self.phase.activation), ist.load_data(), out=run)
        expected = whole(self.phase.activation, load_run(run).engine["product"])
        try:
            pd.testing.assert_frame_equal(resumed, expected, check_exact=True)
        except AssertionError as error:
            found["different"] = str(error)
        if rest := [*run.glob("*.new"), *run.glob(".*")]:
            found["left"] = str(rest)
        return found

    def _listens(self) -> bool:
        """Whether the program has begun to answer signals."""
        with suppress(OSError, IndexError):
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            caught = int(status.split("SigCgt:")[1].split()[0], 16)
            return bool(caught >> (signal.SIGTERM - 1) & 1)
        return False

    def _who_stays(self) -> list[psutil.Process]:
        """The processes of this command that are still there after a while."""
        deadline = time.monotonic() + 30
        while left := [each for each in psutil.process_iter() if self._is_of_it(each)]:
            if time.monotonic() > deadline:
                return left
            time.sleep(0.2)
        return []

    def _is_of_it(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            alive = process.status() != psutil.STATUS_ZOMBIE
            return bool(alive and process.environ().get("TMPDIR") == str(self.temporary))
        return False


def works(process: psutil.Process) -> bool:
    """Whether a process is a worker: Python's own resource tracker is none."""
    with suppress(psutil.Error):
        return any("spawn_main" in word for word in process.cmdline())
    return False


def wait(trial: Trial) -> None:
    """Wait until its phase has come."""
    deadline = time.monotonic() + PATIENCE
    while not trial.is_there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The uninterrupted table of an activation, by the products that a run has chosen."""
    own = tmp_path_factory.mktemp("own") / "own.py"
    own.write_text(OWN)
    load_plugins([str(own)])

    @cache
    def table(activation: str, product: str) -> pd.DataFrame:
        with mock.patch("initstats.stack.settings.fastest_product", return_value=product):
            return ist.run_sweep(grid_of(activation), ist.load_data())

    return table


def test_nobody_stays_behind(tmp_path: Path, whole: Whole) -> None:
    """Two of them, at the same time; the marker `faults` has all of them, again and again."""
    numbers = {"sweep": signal.SIGKILL, "stuck": signal.SIGINT}
    waiting, deadline = {*numbers}, time.monotonic() + PATIENCE
    trials = {phase: Trial(phase, tmp_path / phase) for phase in numbers}
    while waiting:
        assert time.monotonic() < deadline, waiting
        for phase in [phase for phase in waiting if trials[phase].is_there()]:
            assert trials[phase].strike(numbers[phase], "driver"), f"{phase} was over too early"
            waiting.remove(phase)
        time.sleep(0.02)
    for phase, number in numbers.items():
        code = -number if number == signal.SIGKILL else 128 + number
        assert not trials[phase].defects(whole, code)
    assert "0 of 6 cells are kept in run" in trials["stuck"].err


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("target", ["driver", "group"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_at_any_moment(
    phase: str, target: str, number: signal.Signals, tmp_path: Path, whole: Whole, tell: Tell
) -> None:
    found, struck = list[dict[str, str]](), 0
    for each in range(TIMES):
        wait(trial := Trial(phase, tmp_path / str(each)))
        time.sleep(random.uniform(0, 3))
        struck += trial.strike(number, target)
        found.append(trial.defects(whole, 0, -9 if number == signal.SIGKILL else 128 + number))
    tell(f"{number.name} to the {target}, {phase}", found, struck)


@pytest.mark.faults
@pytest.mark.parametrize("phase", ["many", "page"])
@pytest.mark.parametrize("moment", ["start", "work"])
def test_workers_that_are_killed(
    phase: str, moment: str, tmp_path: Path, whole: Whole, tell: Tell
) -> None:
    found, struck = list[dict[str, str]](), 0
    for each in range(TIMES):
        trial = Trial(phase, tmp_path / str(each))
        if moment == "work":
            wait(trial)
        for _ in range(3):  # more of them may end a cell for good
            while trial.process.poll() is None and not trial.strike(signal.SIGKILL, "worker"):
                time.sleep(0.05)
            struck += trial.process.returncode is None
            time.sleep(random.uniform(0, 3))
        found.append(trial.defects(whole, 0))
    tell(f"SIGKILL to workers, {phase}, {moment}", found, struck)


# what goes on around a command


class Around(NamedTuple):
    """What a command begins with, and what mends it after the end."""

    prepare: Callable[[], object] = int
    environment: Mapping[str, str] = MappingProxyType({})
    mend: Callable[[], object] = int


@contextmanager
def disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A disk of its own; root may mount one."""
    folder.mkdir(parents=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], check=False
    )
    if made.returncode:
        pytest.skip("only root mounts disks")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


@contextmanager
def full_disk(folder: Path) -> Iterator[Around]:
    run = folder / "run"
    with disk(run, int(2 ** random.uniform(6, 13))):
        yield Around(mend=lambda: remount(run, "size=64m"))


@contextmanager
def read_only(folder: Path) -> Iterator[Around]:
    with disk(run := folder / "run", 1 << 16):
        if random.random() < 0.5:
            ist.run_sweep(
                ist.Grid(**GRID | {"seeds": 1}, activations=["relu"]), ist.load_data(), out=run
            )
        remount(run, "ro")
        yield Around(mend=lambda: remount(run, "rw"))


def limited(limit: int, low: float, high: float) -> Callable[[Path], Iterator[Around]]:
    """A limit of the system for the command, by chance between two powers of two."""

    def around(_: Path) -> Iterator[Around]:
        most = int(2 ** random.uniform(low, high))
        yield Around(lambda: resource.setrlimit(limit, (most, most)))

    return around


CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static time_t jump(void) { return (random() % 61 - 30) * 31557600L; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += jump();
    return code;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec fine;
    int code = clock_gettime(CLOCK_REALTIME, &fine);
    *now = (struct timeval){fine.tv_sec, fine.tv_nsec / 1000};
    return code;
}

time_t time(time_t *now) {
    struct timespec fine;
    clock_gettime(CLOCK_REALTIME, &fine);
    return now ? *now = fine.tv_sec : fine.tv_sec;
}
"""


def jumping_clock(folder: Path) -> Iterator[Around]:
    """A clock that is wrong by up to thirty years, anew each time that it is read."""
    if not shutil.which("cc"):
        pytest.skip("no compiler of C")
    (source := folder / "clock.c").write_text(CLOCK)
    library = folder / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    yield Around(environment={"LD_PRELOAD": str(library)})


def odd_locale(name: str, letters: str) -> Callable[[Path], Iterator[Around]]:
    """A language and an encoding that Python does not replace by UTF-8."""

    def around(folder: Path) -> Iterator[Around]:
        made = ["localedef", "--no-archive", "-i", name, "-f", letters, str(folder / name)]
        if not shutil.which("localedef") or subprocess.run(made, check=False).returncode > 1:
            pytest.skip("no locales to choose from")
        languages = {"LOCPATH": str(folder), "LC_ALL": name, "LANG": name}
        yield Around(environment=languages | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})

    return around


AROUND: dict[str, Callable[[Path], AbstractContextManager[Around]]] = {
    "full disk": full_disk,
    "read-only folder": read_only,
    "files of a limited size": contextmanager(limited(resource.RLIMIT_FSIZE, 12, 22)),
    "few open files": contextmanager(limited(resource.RLIMIT_NOFILE, 4, 7)),
    "clock that jumps": contextmanager(jumping_clock),
    "Turkish": contextmanager(odd_locale("tr_TR", "ISO-8859-9")),
    "German": contextmanager(odd_locale("de_DE", "ISO-8859-1")),
    "Japanese": contextmanager(odd_locale("ja_JP", "EUC-JP")),
}
HARMLESS = {"clock that jumps", "Turkish", "German", "Japanese"}


@pytest.mark.faults
@pytest.mark.parametrize("fault", AROUND)
def test_hostile_surroundings(fault: str, tmp_path: Path, whole: Whole, tell: Tell) -> None:
    found = list[dict[str, str]]()
    for each in range(TIMES):
        (folder := tmp_path / str(each)).mkdir()
        with AROUND[fault](folder) as around:
            trial = Trial("page", folder, around.prepare, **around.environment)
            trial.process.wait(PATIENCE)
            around.mend()
            found.append(trial.defects(whole, *((0,) if fault in HARMLESS else (0, 2))))
    tell(fault, found, TIMES)


@pytest.mark.faults
def test_two_drivers(tmp_path: Path, whole: Whole, tell: Tell) -> None:
    found = list[dict[str, str]]()
    for each in range(TIMES):
        first = Trial("page", tmp_path / str(each))
        time.sleep(random.uniform(0, 5))
        second = Trial("page", tmp_path / str(each))
        for trial in (first, second):
            trial.process.wait(PATIENCE)
        found.append(first.defects(whole, 0, 2) | second.defects(whole, 0, 2))
        if 0 not in (first.process.returncode, second.process.returncode):
            found[-1]["unclear"] = first.err + second.err
    tell("two drivers", found, TIMES)
