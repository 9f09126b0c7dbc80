"""Real processes are killed or asked to stop, in every phase: nobody and nothing stays behind."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pandas as pd
import psutil
import pytest

import initstats as ist
from initstats import drafts
from initstats.store import load_run
from initstats.sweep import load_plugins

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="what a process listens to is read from /proc"
)
PATIENCE = 300
"""Seconds for what takes a few on an idle machine."""

OWN = """
import multiprocessing, sys, time
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


def sweep(activation: str, **fields: object) -> list[str]:
    command = ["sweep", *options(activations=[activation], **fields), "--workers", "2"]
    return [*command, "--theory", "--out", "run", "--plugin", "own.py"]


def cells(folder: Path) -> int:
    """How many cells are committed."""
    file = folder / "run" / "run.sqlite"
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as run:
        return int(run.execute("SELECT count(*) FROM cell").fetchone()[0])
    return 0


def touched(name: str) -> Callable[[Path], bool]:
    return lambda folder: (folder / name).exists()


BENCH = ["bench", "S10", "--quick"]
PHASES = {
    "start": Phase(sweep("relu"), "relu", lambda folder: True),
    "sweep": Phase(sweep("relu", seeds=4000), "relu", lambda folder: cells(folder) > 2),
    "stuck": Phase(sweep("stuck"), "stuck", touched("stuck")),
    "predictions": Phase(sweep("relu"), "relu", touched("predict_run")),
    "page": Phase(sweep("relu"), "relu", touched("figures_of")),
    "measure": Phase(["measure", "own.py:model", "--input", "9,4"], "", touched("forward")),
    "bench": Phase(BENCH, "", lambda folder: True),
    "lesson": Phase(["foundations", "--seeds", "10", "--out", "page"], "", lambda folder: True),
    "theory": Phase(["theory", "relu", "tanh", "--out", "page"], "", lambda folder: True),
    "list": Phase(["list", "--plugin", "own.py"], "", lambda folder: True),
}


class Trial:
    """A command at work in a folder, until a signal comes to it."""

    def __init__(self, phase: str, number: int, folder: Path) -> None:
        self.phase, self.number, self.folder = phase, number, folder
        (folder / "temporary").mkdir(parents=True)
        (folder / "own.py").write_text(OWN)
        if phase == "stuck":
            (folder / "stick").touch()
        self.environment = f"{folder / 'temporary'}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "initstats", *PHASES[phase].command],
            cwd=folder,
            env=os.environ | {"TMPDIR": self.environment, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # a shell that starts a program in the background has it ignore Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def strike(self, delay: float = 0) -> bool:
        """Send the signal if the phase has come; whether it has, or the command has ended."""
        if self.process.poll() is not None:
            return True
        if not (self._listens() and PHASES[self.phase].is_there(self.folder)):
            return False
        time.sleep(delay)
        self.process.send_signal(self.number)
        return True

    def check(self, whole: Whole) -> bool:
        """Check what is left; whether the signal came before the end."""
        _, self.err = self.process.communicate(timeout=PATIENCE)
        code, err = self.process.returncode, self.err
        self._wait_for_all_to_leave()
        assert "Traceback" not in err, err
        if self.number != signal.SIGKILL:
            assert code in (0, 128 + self.number), err
            assert err.count("\n") == (code != 0), err
            assert not list(self.folder.rglob(".draft-*"))
        else:
            assert code in (0, -9), err
            for place, prefix in (
                (self.folder / "run", ".draft-"),
                (self._temporary, "initstats-"),
            ):
                drafts.sweep_drafts(place, prefix)
        assert not list(self._temporary.iterdir())
        if PHASES[self.phase].activation:
            self._resume(whole)
        return bool(code)

    @property
    def _temporary(self) -> Path:
        return self.folder / "temporary"

    def _resume(self, whole: Whole) -> None:
        """Go on with the run in this process: it becomes what it would have been."""
        run, activation = self.folder / "run", PHASES[self.phase].activation
        if (run / "run.sqlite").exists():
            with closing(sqlite3.connect(run / "run.sqlite")) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        resumed = ist.run_sweep(grid_of(activation), ist.load_data(), out=run)
        expected = whole(activation, load_run(run).engine["product"])
        pd.testing.assert_frame_equal(resumed, expected, check_exact=True)
        assert not [*run.glob("*.new"), *run.glob(".*")]

    def _listens(self) -> bool:
        """Whether the program has begun to answer signals."""
        with suppress(OSError, IndexError):
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            caught = int(status.split("SigCgt:")[1].split()[0], 16)
            return bool(caught >> (signal.SIGTERM - 1) & 1)
        return False

    def _wait_for_all_to_leave(self) -> None:
        """Fail if a process of this command is still there after a while."""
        deadline = time.monotonic() + 30
        while left := [each for each in psutil.process_iter() if self._is_of_it(each)]:
            assert time.monotonic() < deadline, [each.cmdline() for each in left]
            time.sleep(0.2)

    def _is_of_it(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            alive = process.status() != psutil.STATUS_ZOMBIE
            return bool(alive and process.environ().get("TMPDIR") == self.environment)
        return False


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
    """One of each kind, at the same time; the marker `faults` has all of them, again and again."""
    trials = [
        Trial(phase, number, tmp_path / phase)
        for phase, number in {
            "start": signal.SIGHUP,
            "sweep": signal.SIGKILL,
            "stuck": signal.SIGINT,
            "page": signal.SIGTERM,
        }.items()
    ]
    waiting, deadline = trials, time.monotonic() + PATIENCE
    while waiting := [trial for trial in waiting if not trial.strike()]:
        assert time.monotonic() < deadline, [trial.phase for trial in waiting]
        time.sleep(0.02)
    for trial in trials:
        assert trial.check(whole), f"{trial.phase} was over before it was struck"
    assert "0 of 6 cells are kept in run" in trials[2].err


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("phase", PHASES)
def test_nobody_stays_behind_ever(phase: str, number: int, tmp_path: Path, whole: Whole) -> None:
    chance = random.Random(f"{phase} {number}")
    struck = 0
    times = int(os.environ.get("INITSTATS_FAULTS", "5"))
    for each in range(times):
        trial, delay = Trial(phase, number, tmp_path / str(each)), chance.uniform(0, 3)
        deadline = time.monotonic() + PATIENCE
        while not trial.strike(delay):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        struck += trial.check(whole)
    with (Path(tempfile.gettempdir()) / "faults.txt").open("a") as counts:
        counts.write(f"{phase} {signal.Signals(number).name}: {struck} of {times} were struck\n")
