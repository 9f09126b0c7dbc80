"""What a training study survives: its driver is killed at any moment, and nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

KILLS = """
import json, os, random, shutil, signal, sqlite3, sys, time
from contextlib import closing
from pathlib import Path
import pandas as pd
import psutil
import torch
import initstats as ist
from initstats import store
from initstats.workers import OwnProcesses

out, most, workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
READ = [ist.load_training, ist.load_training_curves, ist.load_training_statistics, ist.load_tuning]
KEYS = ["network", "init", "activation", "width", "depth", "seed"]


def study(data, folder, workers=1):
    ist.compare_training(
        ["relu", "tanh"], data, "mlp", 4, inits=["kaiming_normal", "torch_default"], widths=8,
        epochs=2, batch=20, rates=[0.01, 0.03, 0.1], tuning_seeds=1, images=300, out=folder,
        workers=workers,
    )


def same(one, other):
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def committed(folder, whole):
    "The runs of a folder, each whole and with the bits that it is to have; those of tuning, too."
    runs = set()
    for part, keys in ((folder, KEYS), (folder / "tuning", [*KEYS[:-1], "lr", "seed"])):
        if not ((file := part / "run.sqlite").exists() and file.stat().st_size):
            continue
        copy = Path(shutil.copytree(part, out / "copy", dirs_exist_ok=False))
        with closing(sqlite3.connect(copy / "run.sqlite")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        shutil.rmtree(copy)
        try:
            table = store.load_table(part)
        except store.StoreError as error:
            assert "never began" in str(error), error
            continue
        truth = store.load_table(whole / part.relative_to(folder))
        names = {name: "str" for name, kind in table.dtypes.items() if kind == "category"}
        truth = dict(list(truth.astype(names).groupby(keys)))
        for key, rows in table.astype(names).groupby(keys):
            same(rows.reset_index(drop=True), truth[key].reset_index(drop=True))
            runs.add((part == folder, *key))
    return runs


def noted(fault, act):
    try:
        return act()
    except AssertionError as error:
        found.append({fault: str(error)[:500]})
        return set()


def main():
    global found
    torch.set_num_threads(1)
    whole_data = ist.load_data("mnist", train=300, valid=100)
    parts = [
        (part.raw.reshape(-1, 28, 28)[:, ::2, ::2], part.labels)
        for part in (whole_data.train, whole_data.valid)
    ]
    data = ist.Dataset.from_arrays(*parts)
    study(data, out / "whole")
    began = time.perf_counter()
    study(data, out / "timed", workers)
    lives = time.perf_counter() - began
    chance, found = random.Random(2), []
    kills = caught = studies = 0
    while kills < most:
        studies += 1
        folder, before = out / str(studies), set()
        while True:
            child = os.fork()
            if child == 0:
                try:
                    study(data, folder, workers)
                    os._exit(0)
                finally:
                    os._exit(1)
            time.sleep(chance.uniform(0, lives))
            crew = psutil.Process(child).children(recursive=True)
            if kills < most:
                os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            if not os.WIFSIGNALED(status):
                assert os.WEXITSTATUS(status) == 0
                break
            kills += 1
            if psutil.wait_procs(crew, timeout=30)[1]:
                found.append({"orphans": str(crew)})
            runs = noted("partial", lambda: committed(folder, out / "whole"))
            if lost := before - runs:
                found.append({"lost": str(lost)})
            caught += len(runs) > 0
            before = runs
        for read in READ:
            noted("different", lambda: same(read(folder), read(out / "whole")) or set())
        inside = sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))
        if inside != ["run.lock", "run.sqlite", "train.toml"] + [
            "tuning", "tuning/run.lock", "tuning/run.sqlite"
        ]:
            found.append({"left": str(inside)})
        shutil.rmtree(folder)
    print(json.dumps({"kills": kills, "caught": caught, "studies": studies, "found": found}))


if __name__ == "__main__":
    main()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="drivers are forked, which costs no time")
@pytest.mark.parametrize(
    ("most", "workers"),
    [
        (5, 1),
        pytest.param(70, 1, marks=pytest.mark.faults),
        pytest.param(30, 2, marks=pytest.mark.faults),
    ],
)
def test_kills_change_nothing(
    most: int, workers: int, tmp_path: Path, tell: Callable[..., None]
) -> None:
    """Rates are chosen and variants trained in two folders; a kill meets with either."""
    (script := tmp_path / "kills.py").write_text(KILLS)
    command = [sys.executable, "-W", "error", str(script), str(tmp_path), str(most), str(workers)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    found, kills = told["found"], told["kills"]
    assert kills >= most
    assert told["caught"] >= most / 4, told
    tell(f"SIGKILL to a study's driver of {workers}", found + [{}] * (kills - len(found)), kills)
