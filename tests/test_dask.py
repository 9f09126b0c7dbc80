"""A Dask cluster does the work: the same bits, nothing lost, nothing left there."""

from __future__ import annotations

import os
import pickle
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import psutil
import pytest

import initstats as ist
from initstats import luggage
from initstats.cli import app
from initstats.cluster import OnDask, modules_of
from initstats.prediction import predicting
from initstats.registry.catalog import forget_modules
from initstats.store import load_run, mounts
from initstats.sweep import FailedCellsError, load_plugins
from initstats.workers import ThisProcess, Workers, tried

distributed = pytest.importorskip("distributed")

GRID: dict[str, Any] = {"inits": ["kaiming_normal", "lsuv"], "widths": [6], "depth": 2}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The client of two worker processes of two threads."""
    options: dict[str, Any] = {
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": 60,
        "processes": True,
    }
    folder = str(tmp_path_factory.mktemp("scratch"))
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, local_directory=folder, **options
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


def assert_same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_the_bits_are_those_of_this_process(client: Any, toy: ist.Dataset, tmp_path: Path) -> None:
    """All statistics, histograms, gradients and predictions, from two workers of two threads."""
    fields: dict[str, Any] = GRID | {"backward": True, "seeds": 3}
    grid = ist.Grid(**fields, activations=["relu", {"third": lambda x: x / 3}])
    there, here = tmp_path / "there", tmp_path / "here"
    told: list[tuple[int, int]] = []
    found = ist.run_sweep(
        grid, toy, out=there, workers=client, progress=lambda *now: told.append(now)
    )
    assert_same(found, ist.run_sweep(grid, toy, out=here))
    assert_same(ist.load_histograms(there), ist.load_histograms(here))
    assert told == [(done, 12) for done in range(13)]
    grid = ist.Grid(**fields, activations=["relu", "leaky_relu"])
    assert_same(ist.predict(grid, toy, workers=client), ist.predict(grid, toy))
    assert client.status == "running"
    assert set(client.run(lambda dask_worker: len(dask_worker.data)).values()) == {0}
    assert not client.futures


def test_training_is_the_same_there(client: Any, toy: ist.Dataset, tmp_path: Path) -> None:
    """Of a network of ours, and of a model in a file that no worker can find by that name."""
    models = tmp_path / "dask_models.py"
    models.write_text(
        "from torch import nn\n"
        "def net(activation, init):\n"
        "    layers = [nn.Linear(64, 8), activation, nn.Dropout(), nn.Linear(8, 10)]\n"
        "    return init(nn.Sequential(nn.Flatten(), *layers))\n"
    )
    few: dict[str, Any] = {"seeds": 2, "epochs": 1, "batch": 16, "lr": 0.1}
    for network, sizes in (("mlp", {"widths": [6]}), (f"{models}:net", {})):
        grid = ist.TrainingGrid(
            network=network, inits=["kaiming_normal"], activations=["relu", "tanh"], **few, **sizes
        )
        found = ist.compare_training(grid, toy, workers=client)
        assert_same(found, ist.compare_training(grid, toy))


def test_predictions_are_the_same_from_processes(
    toy: ist.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent to them and back is all that they share with this one."""
    started: list[int] = []

    def begin(count: int) -> Workers:
        started.append(count)
        return Sending()

    grid = ist.Grid(**GRID, activations=["relu", "leaky_relu"])
    here = ist.predict(grid, toy)
    monkeypatch.setattr(predicting, "OwnProcesses", begin)
    assert_same(ist.predict(grid, toy, workers=2), here)
    assert started == [2]


class Sending(ThisProcess):
    """Does in this process what another one would be sent."""

    def map(
        self, engine: Any, tasks: Sequence[Any], *, alone: bool = False
    ) -> Generator[tuple[Any, Any]]:
        far = pickle.loads(pickle.dumps(engine))
        for task in tasks:
            yield task, pickle.loads(pickle.dumps(tried(far, pickle.loads(pickle.dumps(task)))))


def test_modules_travel(client: Any, toy: ist.Dataset, tmp_path: Path) -> None:
    """Plugins and what they import, though no worker can read the files; changed ones, too."""
    found = {}
    for factor in ("0.5", "0.25"):
        (tmp_path / "dask_neighbour.py").write_text(f"def scaled(x): return x * {factor}")
        plugin = tmp_path / "dask_plugin.py"
        plugin.write_text(
            "import initstats as ist\nfrom dask_neighbour import scaled\n"
            "@ist.register_activation()\ndef travels(x):\n    return scaled(x)\n"
        )
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        try:
            load_plugins([str(plugin)])
            grid = ist.Grid(**GRID, activations=["travels"], seeds=2)
            here = ist.run_sweep(grid, toy)
            sources = [*tmp_path.glob("*.py")]
            with mock.patch.object(luggage, "_PROCESS", "driver"):
                packed = luggage.Luggage.of(modules_of(grid.entries))
            assert {Path(each.file).name for each in packed.sources.values()} == {
                "dask_plugin.py",
                "dask_neighbour.py",
            }
            with mock.patch.object(luggage.Luggage, "of", return_value=packed):
                for file in sources:
                    file.unlink()
                found[factor] = ist.run_sweep(grid, toy, workers=client)
            assert_same(found[factor], here)
        finally:
            sys.dont_write_bytecode = before
            for name in (str(plugin), "dask_neighbour"):
                sys.modules.pop(name, None)
            forget_modules([str(plugin)])
    assert not found["0.5"].equals(found["0.25"])


@pytest.mark.parametrize("name", ["initstats", "torch", "numba"])
def test_other_versions_are_refused(client: Any, toy: ist.Dataset, name: str) -> None:
    known = luggage._versions() | {name: "0.0.1"}
    with (
        mock.patch.object(luggage, "_versions", return_value=known),
        pytest.raises(ChildProcessError, match=f"Dask worker tcp:.* has {name} .* 0.0.1, so that"),
    ):
        ist.run_sweep(ist.Grid(**GRID, activations=["relu"]), toy, workers=client)


def test_what_is_missing_there_is_told(client: Any, toy: ist.Dataset) -> None:
    packed = luggage.Luggage("driver", luggage._versions(), ("not_there",), {})
    with (
        mock.patch.object(luggage.Luggage, "of", return_value=packed),
        pytest.raises(ChildProcessError, match="cannot import not_there .* install there"),
    ):
        ist.run_sweep(ist.Grid(**GRID, activations=["relu"]), toy, workers=client)


def test_a_scheduler_without_this_package_is_told_of(client: Any, toy: ist.Dataset) -> None:
    error = ModuleNotFoundError("No module named 'initstats'")
    with (
        mock.patch.object(client, "run_on_scheduler", side_effect=error),
        pytest.raises(ChildProcessError, match="Dask scheduler at tcp:.* cannot import .* install"),
    ):
        ist.run_sweep(ist.Grid(**GRID, activations=["relu"]), toy, workers=client)


def test_what_cannot_travel_is_refused(client: Any, toy: ist.Dataset, tmp_path: Path) -> None:
    lock = threading.Lock()

    def locked(x: Any) -> Any:
        with lock:
            return x * 2

    grid = ist.Grid(**GRID, activations=[locked])
    with pytest.raises(ValueError, match="activation 'locked' cannot be sent .* use workers=1"):
        ist.run_sweep(grid, toy, workers=client, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(TypeError, match=r"workers: a number or a dask.distributed.Client, not str"):
        ist.run_sweep(grid, toy, workers="tcp://127.0.0.1:1")
    closed = mock.Mock(asynchronous=False, status="closed")
    with pytest.raises(ValueError, match="this Dask client is closed"):
        OnDask.of(closed, [])


def test_an_error_there_is_a_failure(client: Any, toy: ist.Dataset) -> None:
    def picky(x: Any) -> Any:
        if x.shape[0] == 6:
            raise ValueError("too many")
        return x

    grid = ist.Grid(**GRID, activations=["relu", {"picky": picky}], seeds=2)
    with pytest.raises(FailedCellsError, match="4 of 8 cells failed: ValueError: too many") as told:
        ist.run_sweep(grid, toy, workers=client)
    assert set(told.value.table["activation"]) == {"relu"}
    assert set(client.run(lambda dask_worker: len(dask_worker.data)).values()) == {0}


def test_a_lost_worker_costs_nothing(client: Any, toy: ist.Dataset) -> None:
    """One is killed in the middle; and a cell that always kills its worker is told of."""
    pids = client.run(os.getpid)

    def killing(done: int, total: int) -> None:
        if done == 4:
            os.kill(next(iter(pids.values())), signal.SIGKILL)

    grid = ist.Grid(**GRID, activations=["relu"], seeds=20)
    found = ist.run_sweep(grid, toy, workers=client, progress=killing)
    assert_same(found, ist.run_sweep(grid, toy))


@pytest.mark.faults
def test_a_cell_that_kills_its_workers_is_told_of(client: Any, toy: ist.Dataset) -> None:
    driver = os.getpid()

    def deadly(x: Any) -> Any:
        if os.getpid() != driver and x.shape[-1] > 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    grid = ist.Grid(**GRID, activations=["relu", {"deadly": deadly}], seeds=1)
    with pytest.raises(FailedCellsError, match="2 of 4 cells failed: its Dask worker is gone"):
        ist.run_sweep(grid, toy, workers=client)


# the command line


def options(**fields: object) -> list[str]:
    listed = {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in fields.items()}
    return [word for key, value in listed.items() for word in (f"--{key}", str(value))]


@pytest.mark.parametrize("address", ["nonsense", "tcp://", "tcp://127.0.0.1:1"])
def test_a_wrong_address_is_a_line(address: str, tmp_path: Path) -> None:
    command = ["sweep", *options(**GRID, seeds=1), "--out", str(tmp_path), "--dask", address]
    with (
        mock.patch("initstats.cli.cluster.PATIENCE", 0.2),
        pytest.raises(ValueError, match="--dask: no Dask scheduler answers at"),
    ):
        app(command, standalone_mode=False)


def test_without_dask_a_line_says_what_to_install(tmp_path: Path) -> None:
    command = ["sweep", *options(**GRID, seeds=1), "--out", str(tmp_path), "--dask", "local"]
    with (
        mock.patch.dict(sys.modules, {"distributed": None}),
        pytest.raises(ValueError, match=r"--dask needs Dask .*pip install 'initstats\[dask\]'"),
    ):
        app(command, standalone_mode=False)


class Cluster:
    """A scheduler, two workers and a driver, each in a folder of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.address = folder, f"tcp://127.0.0.1:{port}"
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.start("scheduler", "distributed.cli.dask_scheduler", "--port", str(port))
        self.hire("one")
        self.hire("two")

    def hire(self, name: str) -> None:
        self.start(name, "distributed.cli.dask_worker", "--nthreads", "1", self.address)

    def start(self, name: str, module: str, *words: str) -> None:
        place = self.folder / f"{name} {len(self.processes)}"
        (place / "temporary").mkdir(parents=True)
        dashboard = [] if module == "initstats" else ["--no-dashboard"]
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", module, *words, *dashboard],
            cwd=place,
            env=os.environ | {"TMPDIR": str(place / "temporary"), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if module == "initstats" else subprocess.DEVNULL,
            text=True,
        )

    def kill(self, name: str) -> None:
        """Kill a process, and those that it has started."""
        process = self.processes.pop(name)
        with suppress(psutil.Error):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.communicate()

    def close(self) -> None:
        for name in list(self.processes):
            self.kill(name)


@pytest.mark.faults
@pytest.mark.parametrize("victim", ["one", "scheduler", "driver"])
def test_whoever_is_killed_the_run_stays_whole(
    victim: str, tmp_path: Path, mnist: ist.Dataset
) -> None:
    chance = random.Random(victim)
    for number in range(int(os.environ.get("INITSTATS_FAULTS", "3"))):
        folder = tmp_path / str(number)
        run, port = folder / "run", chance.randrange(20000, 30000)
        fields: dict[str, Any] = GRID | {"depth": 3, "samples": 100, "seeds": 60}
        cluster = Cluster(folder, port)
        try:
            words = [*options(**fields, activations="relu"), "--out", str(run)]
            cluster.start("driver", "initstats", "sweep", *words, "--dask", cluster.address)
            driver, deadline = cluster.processes["driver"], time.monotonic() + 300
            while cells(run) < 3 and driver.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(chance.uniform(0, 1))
            cluster.kill(victim)
            if victim == "driver":
                continue
            if victim == "one":
                cluster.hire("another")
            _, err = driver.communicate(timeout=300)
            assert "Traceback" not in err
            assert driver.returncode in (0, 2) if victim == "scheduler" else not driver.returncode
            assert err.count("\n") == (driver.returncode == 2), err
            drafts = folder.glob("driver*/temporary/initstats-*")
            assert not list(drafts)
        finally:
            cluster.close()
            with closing(sqlite3.connect(run / "run.sqlite")) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            grid = ist.Grid(**fields, activations=["relu"])
            resumed = ist.run_sweep(grid, mnist, out=run)
            product = load_run(run).engine["product"]
            with mock.patch("initstats.stack.settings.fastest_product", return_value=product):
                assert_same(resumed, ist.run_sweep(grid, mnist))


def cells(folder: Path) -> int:
    """How many cells are committed."""
    file = folder / "run.sqlite"
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as run:
        return int(run.execute("SELECT count(*) FROM cell").fetchone()[0])
    return 0


# where the run lies


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        *[(kind, kind) for kind in ("nfs4", "nfs", "cifs", "9p", "lustre", "ceph", "fuse.sshfs")],
        *[(kind, "") for kind in ("ext4", "xfs", "overlay", "tmpfs", "btrfs", "fuse.mergerfs")],
    ],
)
def test_network_file_systems_are_known(
    kind: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    share = tmp_path / "a share"
    escaped = str(share).replace(" ", r"\040")
    table.write_text(
        f"22 1 8:1 / / rw - ext4 /dev/sda rw\n36 22 0:3 / {escaped} rw shared:1 - {kind} x rw\n"
        f"37 36 0:4 / {escaped}/local rw - tmpfs tmpfs rw\n"
    )
    monkeypatch.setattr(mounts, "_MOUNTS", table)
    assert mounts.network_file_system(share / "run") == told
    assert mounts.network_file_system(tmp_path) == ""
    assert mounts.network_file_system(share / "local" / "run") == ""
    monkeypatch.setattr(mounts, "_MOUNTS", tmp_path / "none")
    assert mounts.network_file_system(share) == ""


def test_a_run_on_a_network_is_warned_of(toy: ist.Dataset, tmp_path: Path) -> None:
    grid = ist.Grid(**GRID, activations=["relu"], seeds=1)
    with (
        mock.patch("initstats.store.writing.network_file_system", return_value="nfs4"),
        pytest.warns(UserWarning, match=r"is on a network file system \(nfs4\)"),
    ):
        ist.run_sweep(grid, toy, out=tmp_path)
