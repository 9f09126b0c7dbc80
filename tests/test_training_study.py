"""A training study: the same bits however it is run, fair learning rates, and what is told."""

from __future__ import annotations

import math
import os
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import initstats as ist
from initstats.machine import machine
from initstats.outcome.columns import EPOCH, OUTCOMES
from initstats.store import StoreError, load_run
from initstats.training.engine import TUNING, Engine, Task

STUDY: dict[str, Any] = {
    "network": "mlp",
    "inits": ["kaiming_normal"],
    "widths": 12,
    "images": 400,
    "epochs": 2,
    "batch": 20,
    "rates": [0.01, 0.03, 0.1],
    "tuning_seeds": 1,
}
FIXED = {name: value for name, value in STUDY.items() if name != "rates"} | {"lr": 0.1}
BOTH = ["relu", "tanh"]


@pytest.fixture(scope="module")
def whole(digits: ist.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two variants and three seeds, which nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    ist.compare_training(BOTH, digits, seeds=3, out=folder, **STUDY)
    return folder


READ: list[Callable[[Path], Any]] = [
    ist.load_training,
    ist.load_training_curves,
    ist.load_training_statistics,
    ist.load_tuning,
]


def assert_same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def assert_same_study(one: Path, other: Path, wanted: str = "activation == activation") -> None:
    """All tables of two folders are the same bits; of the second, where it holds more."""
    for read in READ:
        rows = (each.query(wanted).reset_index(drop=True) for each in (read(one), read(other)))
        ours, theirs = (
            each.astype({name: "str" for name, kind in each.dtypes.items() if kind == "category"})
            for each in rows
        )
        order = [name for name in ours if name not in ist.moments.STATISTICS][:9]
        ours, theirs = (each.sort_values(order, ignore_index=True) for each in (ours, theirs))
        assert_same(ours, theirs)


# the same bits


def test_what_a_run_is_does_not_hang_on_the_others(digits: ist.Dataset, whole: Path) -> None:
    table = ist.load_training(whole)
    assert_same(ist.compare_training(BOTH, digits, seeds=3, **STUDY), table)
    for name in BOTH:
        alone = ist.compare_training([name], digits, seeds=[2], **STUDY)
        same = table.query("activation == @name and seed == 2").reset_index(drop=True)
        assert_same(alone, same.astype(alone.dtypes))
    turned = ist.compare_training(BOTH[::-1], digits, seeds=[2, 0, 1], **STUDY)
    order = ["activation", "seed", "epoch"]
    ours, theirs = (
        each.astype({"activation": "str"}).sort_values(order, ignore_index=True)
        for each in (turned, table)
    )
    assert_same(ours, theirs)


@pytest.mark.parametrize("who", ["two workers", "threads", "unwatched"])
def test_who_trains_and_watches_changes_nothing(
    who: str, digits: ist.Dataset, whole: Path, tmp_path: Path
) -> None:
    if who == "unwatched":
        table = ist.compare_training(BOTH, digits, seeds=3, watch=[3], **STUDY)
        assert_same(table, ist.load_training(whole))
        return
    told: list[tuple[str, int, int]] = []
    if who == "two workers":  # which take seconds to start: for the runs alone
        shutil.copytree(whole / "tuning", tmp_path / "tuning")
    with ThreadPoolExecutor(2) as threads:
        how: dict[str, Any] = {"workers": 2} if who == "two workers" else {"executor": threads}
        ist.compare_training(
            BOTH, digits, seeds=3, out=tmp_path, progress=lambda *now: told.append(now),
            **how, **STUDY,
        )  # fmt: skip
    assert_same_study(tmp_path, whole)
    assert [now for now in told if now[0] == "runs"] == [("runs", n, 6) for n in range(7)]
    assert told[0][0] == "tuning runs"


def test_threads_of_torch_change_nothing(digits: ist.Dataset) -> None:
    study = FIXED | {"network": "cnn", "widths": 4}
    one = ist.compare_training(["relu"], digits, seeds=1, **study)
    torch.set_num_threads(2)
    try:
        assert_same(ist.compare_training(["relu"], digits, seeds=1, **study), one)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("interrupted", [("tuning runs", 4), ("runs", 0), ("runs", 3)])
def test_a_study_goes_on_where_it_was_left(
    interrupted: tuple[str, int], digits: ist.Dataset, whole: Path, tmp_path: Path
) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if (what, done) == interrupted:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ist.compare_training(BOTH, digits, seeds=3, out=tmp_path, progress=stop, **STUDY)
    told: list[tuple[str, int, int]] = []
    ist.compare_training(
        BOTH, digits, seeds=3, out=tmp_path, progress=lambda *now: told.append(now), **STUDY
    )
    what, done = interrupted
    assert next(now for now in told if now[0] == what)[1] >= done
    assert_same_study(tmp_path, whole)


def test_a_study_grows_by_seeds_and_variants(
    digits: ist.Dataset, whole: Path, tmp_path: Path
) -> None:
    ist.compare_training(["tanh"], digits, seeds=1, out=tmp_path, **STUDY)
    kept = (tmp_path / "tuning" / "run.sqlite").stat()
    ist.compare_training(["tanh"], digits, seeds=2, out=tmp_path, **STUDY)
    assert len(load_run(tmp_path / "tuning").config["activations"]) == 1
    assert kept.st_ino == (tmp_path / "tuning" / "run.sqlite").stat().st_ino
    table = ist.compare_training(BOTH, digits, seeds=3, out=tmp_path, **STUDY)
    assert_same(table, ist.load_training(whole))
    assert_same_study(tmp_path, whole)


# learning rates


def planted(
    monkeypatch: pytest.MonkeyPatch, loss: Callable[[str, float, int], float]
) -> list[Task]:
    """Tuning runs that end with a loss of (activation, rate, seed); NaN is a divergence."""
    asked, real = list[Task](), Engine.__call__

    def call(self: Engine, task: Task) -> Any:
        if not self.lean:
            return real(self, task)
        asked.append(task)
        rows = []
        for _, activation, lr in task.variants:
            value = loss(activation.name, lr, task.seed)
            found = {"epoch": 1, "valid_loss": value, "failed": float(math.isnan(value))}
            row = [found.get(name, math.nan) for name in OUTCOMES[1:]]
            rows.append(([(self.steps, 0, EPOCH, "")], np.array([row]), b""))
        return rows

    monkeypatch.setattr(Engine, "__call__", call)
    return asked


LADDER = [0.01, 0.03, 0.1, 0.3]


@pytest.mark.parametrize(
    ("losses", "chosen", "tried"),
    [
        ({0.01: 3, 0.03: 1, 0.1: 2, 0.3: 3}, 0.03, LADDER),
        ({0.01: 3, 0.03: 1.015, 0.1: 1, 0.3: 3}, 0.03, LADDER),  # a tie
        ({0.01: 3, 0.03: 1.03, 0.1: 1, 0.3: 3}, 0.1, LADDER),  # no tie any more
        ({0.01: 3, 0.03: 2, 0.1: 1.5, 0.3: 1, 1: 0.5, 3: 2}, 1, [*LADDER, 1, 3]),
        ({0.01: 1, 0.03: 2, 0.1: 3, 0.3: 4, 0.003: 0.9, 0.001: 1}, 0.003, [0.001, 0.003, *LADDER]),
        ({0.01: 3, 0.03: 2, 0.1: 1, 0.3: math.nan}, 0.1, LADDER),
    ],
)
def test_the_rate_is_the_smallest_of_the_good_ones(
    losses: dict[float, float],
    chosen: float,
    tried: list[float],
    digits: ist.Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A diverged run of one seed puts its rate out; `tanh` has rates of its own."""

    def loss(name: str, lr: float, seed: int) -> float:
        return abs(math.log(lr / 0.1)) + 1 if name == "tanh" else losses[lr] + 0.1 * seed

    planted(monkeypatch, loss)
    study = STUDY | {"rates": LADDER, "tuning_seeds": 2, "epochs": 1, "watch": []}
    table = ist.compare_training(BOTH, digits, seeds=1, out=tmp_path, **study)
    tuning = ist.load_tuning(tmp_path)
    assert tuning is not None
    assert sorted(set(tuning.query("activation == 'relu'")["lr"])) == tried
    assert sorted(set(tuning.query("activation == 'tanh'")["lr"])) == LADDER
    assert dict(zip(table["activation"], table["lr"], strict=True)) == {"relu": chosen, "tanh": 0.1}


def test_where_one_seed_diverges_the_rate_is_out(
    digits: ist.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {0.01: 3.0, 0.03: 2.0, 0.1: 1.0, 0.3: 4.0}
    planted(monkeypatch, lambda _, lr, seed: math.nan if (lr, seed) == (0.1, 1) else losses[lr])
    study = STUDY | {"rates": LADDER, "tuning_seeds": 2, "epochs": 1, "watch": []}
    assert set(ist.compare_training(["relu"], digits, seeds=1, **study)["lr"]) == {0.03}


@ist.register_activation()
def bursting(x: Tensor) -> Tensor:
    """One that no learning rate saves."""
    return torch.where(x.abs() > 1e-6, x * math.inf, x)


def test_where_all_rates_fail_the_variant_shows_how(digits: ist.Dataset, tmp_path: Path) -> None:
    study = STUDY | {"inits": ["torch_default"], "watch": []}
    table = ist.compare_training(["relu", "bursting"], digits, seeds=2, out=tmp_path, **study)
    lost = table[table["activation"] == "bursting"]
    assert set(lost["lr"]) == {1e-4}
    assert set(lost["outcome"]) == {"diverged"}
    assert lost[["train_loss", "valid_loss", "valid_accuracy"]].isna().to_numpy().all()
    assert set(table["outcome"][table["activation"] == "relu"]) == {"trained"}
    tuning = ist.load_tuning(tmp_path)
    assert tuning is not None
    assert sorted(set(tuning["lr"][tuning["activation"] == "bursting"])) == [
        1e-4, 3e-4, 0.001, 0.003, 0.01, 0.03, 0.1,
    ]  # fmt: skip


def test_a_fixed_rate_needs_no_tuning(digits: ist.Dataset, tmp_path: Path) -> None:
    assert set(ist.compare_training(BOTH, digits, seeds=1, out=tmp_path, **FIXED)["lr"]) == {0.1}
    assert not (tmp_path / "tuning").exists()
    assert ist.load_tuning(tmp_path) is None
    one = ist.Dataset.from_arrays(([[0.0, 1.0]], [0]), ([[0.0, 1.0]], [0]), ([[1.0, 0.0]], [0]))
    found = ist.compare_training(["relu"], one, "mlp", 1, inits=["zeros"], batch=1, lr=0.1)
    assert found["step"].tolist() == [1, 2, 3]


def test_tuning_sees_neither_validation_nor_test(
    digits: ist.Dataset, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other images for these change no tuning run, and other draws than in any run are used."""
    seeds = {True: set[int](), False: set[int]()}
    real = Engine._builder

    def seen(self: Engine, task: Task) -> Any:
        site, build = real(self, task), None
        build = site.build

        def noted(init: Any, activation: Any, seed: int) -> Any:
            seeds[self.lean].add(seed)
            return build(init, activation, seed)

        monkeypatch.setattr(site, "build", noted)
        return site

    monkeypatch.setattr(Engine, "_builder", seen)
    flipped = (digits.train.raw[::-1][:100].reshape(-1, 14, 14), digits.train.labels[:100])
    train = (digits.train.raw.reshape(-1, 14, 14), digits.train.labels)
    other = ist.Dataset.from_arrays(train, flipped, flipped, name="digits")
    ist.compare_training(BOTH, other, seeds=2, out=tmp_path, **STUDY)
    found, expected = ist.load_tuning(tmp_path), ist.load_tuning(whole)
    assert found is not None
    assert expected is not None
    assert_same(found, expected)
    assert seeds == {True: {TUNING}, False: {0, 1}}


# the folder


def test_a_folder_holds_one_kind_of_run(digits: ist.Dataset, whole: Path, tmp_path: Path) -> None:
    grid = ist.Grid(inits=["zeros"], activations=["relu"], depth=1, seeds=1)
    ist.run_sweep(grid, digits, out=tmp_path)
    before = sorted(tmp_path.iterdir())
    for settings in (STUDY, FIXED):
        with pytest.raises(StoreError, match="holds a run of another kind: choose another folder"):
            ist.compare_training(BOTH, digits, seeds=1, out=tmp_path, **settings)
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(StoreError, match="holds a run of another kind: choose another folder"):
        ist.run_sweep(grid, digits, out=whole)
    with pytest.raises(ValueError, match="holds another kind of run, and no sweep"):
        ist.predict_run(whole)
    for read in READ:
        for folder in (tmp_path, whole / "tuning"):
            with pytest.raises(StoreError, match="another kind of run, and no training study"):
                read(folder)
        with pytest.raises(StoreError, match="is not a run's folder"):
            read(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 3}, "epochs: 2 there, 3 asked"),
        ({"optimizer": "adamw"}, "optimizer: momentum there, adamw asked; weight_decay: 0"),
        ({"rates": None, "lr": 0.1}, "lr: None there, 0.1 asked"),
        ({"images": 300}, "images: 400 there, 300 asked"),
        ({"rates": [0.01, 0.03, 0.3]}, r"rates: \[0.01, 0.03, 0.1\] there"),
        ({"target": 0.5}, "target: 0.9 there, 0.5 asked"),
    ],
)
def test_other_settings_are_refused(
    digits: ist.Dataset, whole: Path, change: dict[str, Any], message: str
) -> None:
    before = (whole / "run.sqlite").read_bytes()
    with pytest.raises(StoreError, match=message):
        ist.compare_training(BOTH, digits, seeds=3, out=whole, **STUDY | change)
    assert (whole / "run.sqlite").read_bytes() == before


def test_other_data_are_refused(digits: ist.Dataset, whole: Path) -> None:
    other = replace(digits, valid=replace(digits.valid, labels=digits.valid.labels[::-1].copy()))
    with pytest.raises(StoreError, match="data: .* there, .* asked"):
        ist.compare_training(BOTH, other, seeds=3, out=whole, **STUDY)


def test_damage_is_noticed_and_mended(digits: ist.Dataset, whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection, connection:
        connection.execute("UPDATE measurement SET valid_loss = valid_loss + 1e-12 WHERE cell = 2")
    for read in READ[:3]:
        with pytest.raises(StoreError, match=r"1 cell is damaged \(.*\)"):
            read(folder)
    with pytest.warns(UserWarning, match=r"1 cell is damaged \(.*\), and will be measured again"):
        ist.compare_training(BOTH, digits, seeds=3, out=folder, **STUDY)
    assert_same_study(folder, whole)
    raw, chance = (whole / "run.sqlite").read_bytes(), random.Random(0)
    told = []
    for bit in (chance.randrange(8 * len(raw)) for _ in range(8)):
        broken = bytearray(raw)
        broken[bit // 8] ^= 1 << bit % 8
        (folder / "run.sqlite").write_bytes(broken)
        try:
            assert_same(ist.load_training(folder), ist.load_training(whole))
        except StoreError as error:
            told.append(str(error))
    assert told
    assert all("damaged" in each for each in told)


def test_two_drivers_are_not_at_work_in_a_folder(digits: ist.Dataset, tmp_path: Path) -> None:
    """The second one is told so at once, in tuning as in the runs."""
    met: list[str] = []

    def second(what: str, done: int, total: int) -> None:
        if done == 1:
            with pytest.raises(StoreError, match="is in use by another run"):
                ist.compare_training(["relu"], digits, seeds=1, out=tmp_path, **STUDY)
            met.append(what)

    ist.compare_training(["relu"], digits, seeds=1, out=tmp_path, progress=second, **STUDY)
    assert met == ["tuning runs", "runs"]


def test_a_folder_that_may_only_be_read(
    digits: ist.Dataset, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the versions are read while this is still a user who may enter the environment's folder
    known = machine()
    monkeypatch.setattr("initstats.training.study.machine", lambda: known)
    folder, expected, user = Path(tempfile.mkdtemp()), ist.load_training(whole), os.geteuid()
    shutil.copytree(whole, folder / "run")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    if user == 0:
        os.seteuid(65534)
    try:
        assert_same(ist.load_training(folder / "run"), expected)
        with pytest.raises(StoreError, match="run.*") as error:
            ist.compare_training(BOTH, digits, seeds=4, out=folder / "run", **STUDY)
        assert "\n" not in str(error.value)
    finally:
        os.seteuid(user)
        for path in (folder, folder / "run", folder / "run" / "tuning"):
            path.chmod(0o755)
        shutil.rmtree(folder)


def test_two_steps_of_a_study_side_by_side(whole: Path) -> None:
    rows = ist.load_training_statistics(whole)
    first, last = rows[rows["step"] == 0], rows[rows["step"] == rows["step"].max()]
    found = ist.compare_runs(first, last, statistics=["std"])
    assert (found["measured"] == "both").all()
    assert found["paired"].all()
    assert (found["difference"] != 0).any()
    same = ist.compare_runs(whole, whole, statistics=["std"])
    assert sorted(same["step"].unique()) == sorted(rows["step"].unique())
    assert (same["difference"] == 0).all()
