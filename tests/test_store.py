from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import initstats as ist
from initstats.store import (
    Key,
    Run,
    Store,
    StoreError,
    load_histograms,
    load_predictions,
    load_run,
    load_sessions,
    load_table,
    pack,
    save_predictions,
    sum_histograms,
)
from initstats.store.file import write_ahead
from initstats.store.histograms import add, unpack
from initstats.store.parameters import parameters_of, with_parameters
from initstats.sweep.cell import KEYS, PLACES

ROWS = [(1, "preactivation", "forward"), (1, "activation", "forward")]
RUN = Run(
    config={
        "data": "toy",
        "inits": ["zeros", "normal"],
        "activations": ["tanh", "relu"],
        "networks": ["mlp"],
        "widths": [50, 20],
        "depth": 1,
        "seeds": [0, 1],
        "split": "valid",
        "samples": None,
        "backward": False,
        "plugins": [],
    },
    settings={"dataset": "toy", "data": "1f00", "depth": 1},
    engine={"tile": 128},
    keys=KEYS,
    places=PLACES,
    statistics={"count": True, "mean": False, "min": False},
    bins=([-np.inf, -1.0, 0.0, 1.0], [-1.0, 0.0, 0.0, np.inf]),
)
ODD = [np.nan, np.inf, -np.inf, -0.0, 0.0, 5e-324, -1.7976931348623157e308, 0.1, 1.0, 2.0**53 + 2]


def statistics(index: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of a cell's two rows; odd values among them."""
    generator = np.random.default_rng(index)
    return np.column_stack([generator.integers(0, 2**53, 2), generator.choice(ODD, (2, 2))])


def histograms(index: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng(index).integers(0, 3, (2, 4))


def fill(folder: Path | None, run: Run = RUN, cells: list[Key] | None = None) -> Store:
    """A store, closed again, with these cells (by default all) committed last to first."""
    with Store.open(folder, run, {"torch": "2"}) as store:
        for cell in reversed(run.cells if cells is None else cells):
            index = RUN.cells.index(cell)
            store.add(cell, ROWS, statistics(index), pack(histograms(index)))
    return store


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that any user may reach."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def powerless() -> Iterator[None]:
    """For once not root, who may write anywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


def test_floats_survive_bit_for_bit(tmp_path: Path) -> None:
    fill(tmp_path)
    table = load_table(tmp_path)
    expected = np.concatenate([statistics(index) for index in range(len(RUN.cells))])
    for column, name in enumerate(RUN.statistics):
        values = table[name].to_numpy(np.float64)
        assert values.tobytes() == np.ascontiguousarray(expected[:, column]).tobytes()
    assert {"-0.0", "nan", "inf", "5e-324"} <= {repr(float(x)) for x in expected[:, 1:].flat}


def test_table_is_in_the_order_of_the_lists(tmp_path: Path) -> None:
    fill(tmp_path)
    table = load_table(tmp_path)
    keys = table[[*KEYS, "layer", "tensor", "direction"]].itertuples(index=False, name=None)
    assert list(keys) == [(*cell, *row) for cell in RUN.cells for row in ROWS]
    assert list(table["init"].cat.categories) == ["zeros", "normal"]
    assert list(table["tensor"].cat.categories) == ["preactivation", "activation"]
    assert table.dtypes.astype(str).to_dict() == {
        "dataset": "category",
        "network": "category",
        "init": "category",
        "activation": "category",
        "width": "int64",
        "seed": "int64",
        "layer": "int64",
        "tensor": "category",
        "direction": "category",
        "count": "int64",
        "mean": "float64",
        "min": "float64",
    }


def test_any_sqlite_browser_shows_the_table(tmp_path: Path) -> None:
    fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection:
        shown = pd.read_sql("SELECT * FROM tidy ORDER BY init DESC", connection)
    assert list(shown.columns) == list(load_table(tmp_path).columns[1:])
    assert len(shown) == 2 * len(RUN.cells)


def test_without_a_folder_the_table_is_the_same(tmp_path: Path) -> None:
    fill(tmp_path)
    with Store.open(None, RUN, {}) as store:
        for index, cell in enumerate(RUN.cells):
            store.add(cell, ROWS, statistics(index), pack(histograms(index)))
        pd.testing.assert_frame_equal(store.table(RUN), load_table(tmp_path), check_exact=True)


def test_unfinished_and_empty_runs_load(tmp_path: Path) -> None:
    fill(tmp_path, cells=[])
    empty = load_table(tmp_path)
    assert len(empty) == len(load_histograms(tmp_path)) == 0
    fill(tmp_path, cells=RUN.cells[3:5])
    some = load_table(tmp_path)
    assert list(some["mean"].isna()) == list(np.isnan(np.r_[statistics(3), statistics(4)][:, 1]))
    pd.testing.assert_series_equal(empty.dtypes.astype(str), some.dtypes.astype(str))


@given(arrays(np.int64, (3, 40), elements=st.integers(0, 2**62)), st.integers(0, 3))
def test_histograms_pack_without_loss(counts: np.ndarray[Any, Any], empty_rows: int) -> None:
    counts[:empty_rows] = 0
    assert (unpack(pack(counts), rows=3, bins=40) == counts).all()
    total = counts[1:].copy()
    add(pack(counts), np.array([0, 2]), total, rows=3)
    assert (total == counts[1:] + counts[::2]).all()


def test_histograms_that_were_packed_by_the_first_version_are_read() -> None:
    numbers = np.array([1, 4, 7, 300], "<i8")  # two gaps, two counts
    packed = zlib.compress(numbers.view(np.uint8).reshape(-1, 8).T.tobytes())
    assert unpack(packed, rows=2, bins=3).tolist() == [[0, 7, 0], [0, 0, 300]]


def test_histograms_of_some_cells_and_rows(tmp_path: Path) -> None:
    fill(tmp_path)
    whole = load_histograms(tmp_path)
    expected = [
        (*cell, *row, RUN.bins[0][where], RUN.bins[1][where], count)
        for index, cell in enumerate(RUN.cells)
        for row, counts in zip(ROWS, histograms(index), strict=True)
        for where, count in enumerate(counts)
        if count
    ]
    assert list(whole.drop(columns="dataset").itertuples(index=False, name=None)) == expected
    assert len(whole) == len(expected)

    part = load_histograms(
        tmp_path, inits=["normal"], widths=20, seeds=[1, 0], tensors="activation", layers=[1]
    )
    wanted = whole.query("init == 'normal' and width == 20 and tensor == 'activation'")
    kinds = {"init": "str", "tensor": "str"}  # only the categories that are kept
    pd.testing.assert_frame_equal(part.astype(kinds), wanted.reset_index(drop=True).astype(kinds))
    with pytest.raises(ValueError, match="unknown activation 'tan': did you mean 'tanh'"):
        load_histograms(tmp_path, activations="tan")
    with pytest.raises(ValueError, match="unknown layer '2': available: 1"):
        load_histograms(tmp_path, layers=2)


def test_a_cell_is_committed_whole_or_not_at_all(tmp_path: Path) -> None:
    with Store.open(tmp_path, RUN, {}) as store:
        store.add(RUN.cells[0], ROWS, statistics(0), pack(histograms(0)))
        with pytest.raises(ValueError, match="of shape"):
            store.add(RUN.cells[1], ROWS, statistics(1)[:, :2], pack(histograms(1)))
        assert store.done() == {RUN.cells[0]}
    assert len(load_table(tmp_path)) == 2


def test_longer_lists_extend_a_run(tmp_path: Path) -> None:
    config = RUN.config
    fill(tmp_path, replace(RUN, config=config | {"inits": ["normal"], "seeds": [1]}))
    asked = replace(RUN, config=config | {"plugins": ["mine"], "seeds": [0, 1]}, engine={"tile": 1})
    with Store.open(tmp_path, asked, {}) as store:
        assert len(store.done()) == 4
        assert store.run.engine == {"tile": 128}
        assert store.run.config["inits"] == ["normal", "zeros"]
        assert store.run.config["seeds"] == [1, 0]
    assert load_run(tmp_path) == store.run
    text = (tmp_path / "grid.toml").read_text()
    assert 'plugins = [\n    "mine",\n]' in text
    assert "samples" not in text


def test_seeds_from_zero_are_written_as_a_number(tmp_path: Path) -> None:
    fill(tmp_path, cells=[])
    assert "seeds = 2\n" in (tmp_path / "grid.toml").read_text()


# keys and places are data

TRAINING = Run(
    config={"variants": ["plain", "lsuv"], "seeds": [3, 1], "epochs": 2},
    settings={"dataset": "toy"},
    engine={},
    keys={"variant": "text", "seed": "integer"},
    places={"epoch": "integer"},
    statistics={"steps": True, "loss": False},
    bins=([], []),
)
NOTHING = pack(np.zeros((2, 0), np.int64))


def test_a_run_of_other_keys_and_places(tmp_path: Path) -> None:
    assert TRAINING.cells == [("plain", 3), ("plain", 1), ("lsuv", 3), ("lsuv", 1)]
    with Store.open(tmp_path, TRAINING, {}) as store:
        for index, cell in enumerate(reversed(TRAINING.cells)):
            rows = np.array([[10.0, index], [20.0, -index]])
            store.add(cell, [(1,), (2,)], rows, NOTHING)
        with pytest.raises(StoreError, match="UNIQUE constraint failed: cell.variant, cell.seed"):
            store.add(TRAINING.cells[0], [(1,), (2,)], rows, NOTHING)
    table = load_table(tmp_path)
    assert list(table.columns) == ["dataset", "variant", "seed", "epoch", "steps", "loss"]
    assert list(table["variant"].cat.categories) == ["plain", "lsuv"]
    assert list(zip(table["variant"], table["seed"], table["epoch"], strict=True)) == [
        (*cell, epoch) for cell in TRAINING.cells for epoch in (1, 2)
    ]
    assert list(table["loss"]) == [3, -3, 2, -2, 1, -1, 0, 0]
    assert list(table["steps"]) == [10, 20] * 4
    with pytest.raises(StoreError, match="keys: variant, seed, epoch there, variant, seed asked"):
        Store.open(tmp_path, replace(TRAINING, places={}), {})
    with pytest.raises(ValueError, match="unknown key column 'layer': .*available: variant, seed,"):
        load_histograms(tmp_path, layers=1)


@pytest.mark.parametrize("name", ["seed", "epoch", "dataset", "place"])
def test_a_statistic_cannot_be_called_like_a_key(name: str) -> None:
    with pytest.raises(ValueError, match=f"a statistic cannot be called '{name}', .*: rename it"):
        replace(TRAINING, statistics={name: False})


def test_cells_have_places_of_their_own(tmp_path: Path) -> None:
    normed = [(1, "norm", "forward"), *ROWS]
    with Store.open(tmp_path, RUN, {}) as store:
        store.add(RUN.cells[9], ROWS, statistics(9), pack(histograms(9)))
        three = np.concatenate([statistics(8)[:1], statistics(0)])
        counts = np.concatenate([histograms(8)[:1], histograms(0)])
        store.add(RUN.cells[0], normed, three, pack(counts))
    table = load_table(tmp_path)
    places = list(zip(table["layer"], table["tensor"], table["direction"], strict=True))
    assert places == [*normed, *ROWS]
    assert list(table["tensor"].cat.categories) == ["norm", "preactivation", "activation"]
    rows = np.concatenate([three, statistics(9)])
    assert table["mean"].to_numpy().tobytes() == np.ascontiguousarray(rows[:, 1]).tobytes()
    bins = load_histograms(tmp_path, tensors=["activation"])
    expected = [count for index in (0, 9) for count in histograms(index)[1] if count]
    assert list(bins["count"]) == expected
    found = list(sum_histograms(tmp_path, tensor="norm"))
    assert [key for key, _ in found] == [RUN.cells[0][:-1], RUN.cells[9][:-1]]
    assert [len(counts) for _, counts in found] == [1, 0]
    assert (found[0][1] == histograms(8)[:1]).all()


@pytest.mark.parametrize("verified", [False, True])
def test_histograms_of_seeds_are_added(tmp_path: Path, verified: bool) -> None:
    fill(tmp_path)
    found = dict(sum_histograms(tmp_path, among={"width": [20]}, verified=verified))
    keys = dict.fromkeys(key[:-1] for key in RUN.cells if key[3] == 20)
    assert [*found] == [*keys]
    for key, counts in found.items():
        seeds = [histograms(n)[1] for n, cell in enumerate(RUN.cells) if cell[:-1] == key]
        assert counts.tolist() == [np.sum(seeds, axis=0).tolist()]


# statistics come and go


def test_a_new_statistic_is_nan_in_old_rows(tmp_path: Path) -> None:
    fill(tmp_path, cells=RUN.cells[:1])
    asked = replace(RUN, statistics={"count": True, "peaks": True, "mean": False, "min": False})
    peaked = np.insert(statistics(1), 1, [5, 6], axis=1)
    with pytest.warns(UserWarning, match="peaks will be NaN in 1 cell, measured before"):
        store = Store.open(tmp_path, asked, {})
    with store:
        store.add(RUN.cells[1], ROWS, peaked, pack(histograms(1)))
        assert list(store.table(asked)["peaks"].isna()) == [True, True, False, False]
    table = load_table(tmp_path)
    assert list(table.columns[-4:]) == ["count", "peaks", "mean", "min"]
    assert table["peaks"].tolist()[2:] == [5, 6]
    assert list(map(str, table[["count", "peaks"]].dtypes)) == ["int64", "float64"]
    assert table["mean"].tolist()[3:] == [statistics(1)[1, 1]]
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection:
        shown = pd.read_sql("SELECT * FROM tidy", connection)
    assert list(shown.columns) == list(table.columns[1:])


def test_a_statistic_that_is_gone_stays_in_old_rows(tmp_path: Path) -> None:
    fill(tmp_path, cells=RUN.cells[:1])
    asked = replace(RUN, statistics={"min": False, "count": True})
    with pytest.warns(UserWarning, match="mean will be NaN in 15 cells, measured now"):
        store = Store.open(tmp_path, asked, {})
    with store:
        store.add(RUN.cells[1], ROWS, statistics(1)[:, [2, 0]], pack(histograms(1)))
        assert list(store.table(asked).columns[-2:]) == ["min", "count"]
    table = load_table(tmp_path)
    assert list(table.columns[-3:]) == ["min", "count", "mean"]
    expected = np.concatenate([statistics(0), statistics(1)])
    expected[2:, 1] = np.nan
    for column, name in enumerate(["count", "mean", "min"]):
        values = table[name].to_numpy(np.float64)
        assert values.tobytes() == np.ascontiguousarray(expected[:, column]).tobytes()
    # and comes back
    with Store.open(tmp_path, RUN, {}) as store:
        store.add(RUN.cells[2], ROWS, statistics(2), pack(histograms(2)))
    assert list(load_table(tmp_path).columns[-3:]) == ["count", "mean", "min"]


# parameters

NORMALS: Any = {
    "init": {
        "normal": {"std": 0.01},
        "normal(std=1)": {"std": 1.0},
        "zeros": {},
    },
    "activation": {"relu": {"mode": "soft"}},
}


def test_parameters_that_vary_are_columns() -> None:
    names = ["zeros", "normal", "normal(std=1)", "mine", "normal"]
    keys = pd.DataFrame({"init": pd.Categorical(names), "activation": "relu"})
    table = with_parameters(keys, NORMALS)
    assert list(table.columns) == ["init", "activation", "init_std"]
    assert table["init_std"].dtype == "float64"
    assert repr(table["init_std"].tolist()) == "[nan, 0.01, 1.0, nan, 0.01]"
    modes: Any = {"f": {"mode": "b"}, "f(mode=a)": {"mode": "a"}}
    table = with_parameters(pd.DataFrame({"init": ["f(mode=a)", "g", "f"]}), {"init": modes})
    assert table["init_mode"].dtype == pd.CategoricalDtype(["b", "a"])
    assert list(table["init_mode"].astype(object).fillna("none")) == ["a", "none", "b"]
    flags: Any = {"f": {"flag": True}, "f(flag=false)": {"flag": False}}
    table = with_parameters(pd.DataFrame({"init": ["f", "f(flag=false)"]}), {"init": flags})
    assert list(table["init_flag"]) == ["true", "false"]


def test_entries_have_parameters_of_their_own() -> None:
    grid = ist.Grid(
        inits=["zeros"],
        activations=[
            "leaky_relu(negative_slope=0:0.2:2)",
            {"elu(mine)": lambda x: x, "leaky": "leaky_relu"},
        ],
    )
    slopes = {"leaky_relu(negative_slope=0)": 0.0, "leaky_relu(negative_slope=0.2)": 0.2}
    assert parameters_of(grid.entries) == {
        "network": {"mlp": ist.networks.get("mlp").parameters},
        "init": {"zeros": {}},
        "activation": {
            **{name: {"negative_slope": slope} for name, slope in slopes.items()},
            "elu(mine)": {},
            "leaky": {},
        },
    }


def test_a_parameter_that_begins_to_vary_has_values_in_old_rows(tmp_path: Path) -> None:
    fill(tmp_path, replace(RUN, parameters={"init": {"normal": {"std": 0.01}}}), RUN.cells[-1:])
    assert "init_std" not in load_table(tmp_path)
    config = RUN.config | {"inits": ["normal(std=1)"]}
    asked = replace(RUN, config=config, parameters={"init": {"normal(std=1)": {"std": 1.0}}})
    with Store.open(tmp_path, asked, {}) as store:
        store.add(("mlp", "normal(std=1)", "relu", 20, 1), ROWS, statistics(1), pack(histograms(1)))
        assert "init_std" not in store.table(asked)
    table = load_table(tmp_path)
    assert list(table.columns[8:11]) == ["direction", "init_std", "count"]
    assert list(table["init_std"]) == [0.01, 0.01, 1, 1]
    bins = load_histograms(tmp_path, inits="normal")
    assert list(bins.columns[8:11]) == ["direction", "init_std", "low"]
    assert set(bins["init_std"]) == {0.01}


def test_predictions_have_the_parameters_of_their_run(tmp_path: Path) -> None:
    run = replace(
        RUN, config=RUN.config | {"inits": ["normal", "normal(std=1)"]}, parameters=NORMALS
    )
    fill(tmp_path, run, cells=[])
    rows = pd.DataFrame(
        {"init": ["normal", "normal(std=1)"], "width": [5, 7], "init_std": [8.0, 9.0]}
    ).assign(mean=[np.nan, -0.0], note=["", "far"])
    save_predictions(tmp_path, rows)
    read = load_predictions(tmp_path)
    assert read is not None
    expected = rows.assign(init_std=[0.01, 1.0])
    pd.testing.assert_frame_equal(read, expected[read.columns], check_exact=True)
    assert list(read.columns) == ["init", "width", "init_std", "mean", "note"]
    assert np.signbit(read["mean"][1])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"settings": RUN.settings | {"depth": 3}}, r"\(depth: 1 there, 3 asked\)"),
        (
            {"settings": RUN.settings | {"data": "2e00", "dataset": "mine"}},
            "dataset: toy there, mine asked; data: 1f00 there, 2e00 asked",
        ),
        ({"bins": ([0.0], [1.0])}, "bins: 4 there, 1 asked"),
        ({"engine": {"backend": 1}}, "engine: tile there, backend asked"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    fill(tmp_path)
    before = content(tmp_path)
    with pytest.raises(StoreError, match=message):
        Store.open(tmp_path, replace(RUN, **other), {})
    assert content(tmp_path) == before


def test_sessions_tell_who_worked(tmp_path: Path) -> None:
    fill(tmp_path, cells=RUN.cells[:3])
    fill(tmp_path, cells=RUN.cells[3:])
    sessions = load_sessions(tmp_path)
    assert list(sessions["cells"]) == [3, len(RUN.cells) - 3]
    assert list(sessions["torch"]) == ["2", "2"]
    assert (sessions["seconds"] > 0).all()
    assert sessions["started"].dt.tz is not None


def test_one_driver_at_a_time_and_any_reader(tmp_path: Path) -> None:
    with Store.open(tmp_path, RUN, {}) as store:
        store.add(RUN.cells[0], ROWS, statistics(0), pack(histograms(0)))
        assert len(load_table(tmp_path)) == 2
        with pytest.raises(StoreError, match="is in use by another run: wait for it"):
            Store.open(tmp_path, RUN, {})
        store.add(RUN.cells[1], ROWS, statistics(1), pack(histograms(1)))
    with Store.open(tmp_path, RUN, {}) as store:
        assert len(store.done()) == 2
    assert sorted(content(tmp_path)) == ["grid.toml", "run.lock", "run.sqlite"]


def killed(folder: Path, journal: str) -> None:
    """Be a driver that dies in the middle of a transaction."""
    store = Store.open(folder, RUN, {})
    store.add(RUN.cells[0], ROWS, statistics(0), pack(histograms(0)))
    execute = store._connection.execute
    execute(f"PRAGMA journal_mode = {journal}")
    execute("PRAGMA cache_size = 1")  # so that half of it is in the file
    execute("BEGIN IMMEDIATE")
    execute("UPDATE session SET cells = 2")  # as all do
    execute("UPDATE cell SET histogram = zeroblob(1000000)")
    execute("DELETE FROM measurement")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_a_killed_driver_frees_the_folder(tmp_path: Path, journal: str) -> None:
    driver = get_context("fork").Process(target=killed, args=(tmp_path, journal))
    driver.start()
    driver.join()
    assert (tmp_path / ("run.sqlite-" + {"WAL": "wal", "DELETE": "journal"}[journal])).exists()
    assert len(load_table(tmp_path)) == 2
    fill(tmp_path, cells=RUN.cells[1:])
    assert len(load_table(tmp_path)) == 2 * len(RUN.cells)


def test_a_driver_killed_as_it_began_left_nothing(tmp_path: Path) -> None:
    (tmp_path / "run.sqlite").touch()
    with pytest.raises(StoreError, match="holds a run that never began"):
        load_table(tmp_path)
    fill(tmp_path)
    assert len(load_table(tmp_path)) == 2 * len(RUN.cells)


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    for where in (tmp_path, tmp_path / "missing"):
        with pytest.raises(StoreError, match="is not a run's folder: there is no run.sqlite in it"):
            load_table(where)
    assert content(tmp_path) == {}


def test_a_file_of_another_program(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    before = content(tmp_path)
    for use in (load_table, fill):
        with pytest.raises(StoreError, match="is not a run of initstats: choose another folder"):
            use(tmp_path)
    assert content(tmp_path) == before


def test_a_file_of_another_version(tmp_path: Path) -> None:
    fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 7")
    before = content(tmp_path)
    for use in (load_table, fill):
        with pytest.raises(StoreError, match="another version of initstats .its format is 7, this"):
            use(tmp_path)
    assert content(tmp_path) == before


@pytest.mark.parametrize("damage", ["header", "page", "end"])
def test_a_damaged_file_is_left_as_it_is(tmp_path: Path, damage: str) -> None:
    fill(tmp_path)
    file = tmp_path / "run.sqlite"
    raw = bytearray(file.read_bytes())
    if damage == "header":
        raw[:4096] = b"\xa5" * 4096
    elif damage == "page":
        with closing(sqlite3.connect(file)) as connection:
            query = "SELECT rootpage FROM sqlite_master WHERE name = 'measurement'"
            start = 4096 * (connection.execute(query).fetchone()[0] - 1)
        raw[start : start + 4096] = b"\xa5" * 4096
    else:
        del raw[len(raw) // 2 :]
    file.write_bytes(raw)
    for use in (load_table, fill):
        with pytest.raises(StoreError, match=r"damaged \(.*\) and was left as it is: move it away"):
            use(tmp_path)
        assert file.read_bytes() == raw


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file is a file: name a folder for the run"):
        fill(tmp_path / "file")
    with pytest.raises(StoreError, match="cannot use .*: Not a directory"):
        fill(tmp_path / "file" / "below")


@pytest.mark.usefixtures("powerless")
def test_a_folder_without_permission(folder: Path) -> None:
    (inside := folder / "mine").mkdir()
    inside.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(StoreError, match="cannot use .*: Permission denied"):
        fill(inside)
    assert content(inside) == {}
    with pytest.raises(StoreError, match="cannot use .*: Permission denied"):
        fill(inside / "below")


@pytest.mark.usefixtures("powerless")
def test_a_run_on_a_read_only_disk_can_be_read(folder: Path) -> None:
    fill(inside := folder / "mine")
    before = content(inside)
    for file in inside.iterdir():
        file.chmod(stat.S_IRUSR)
    inside.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert len(load_table(inside)) == 2 * len(RUN.cells)
    with pytest.raises(StoreError, match=r"cannot lock .*run.lock: attempt to write a readonly"):
        fill(inside)
    inside.chmod(stat.S_IRWXU)
    (inside / "run.lock").unlink()
    with pytest.raises(StoreError, match="cannot use .*: attempt to write a readonly database"):
        fill(inside)
    assert content(inside) == before


def test_a_full_disk_loses_no_commit(tmp_path: Path) -> None:
    with Store.open(tmp_path, RUN, {}) as store:
        store.add(RUN.cells[0], ROWS, statistics(0), pack(histograms(0)))
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        big = bytes(10 * 4096)
        with pytest.raises(StoreError, match="disk is full; what was committed is safe"):
            store.add(RUN.cells[1], ROWS, statistics(1), big)
        assert store.done() == {RUN.cells[0]}
    fill(tmp_path, cells=RUN.cells[1:])
    assert len(load_table(tmp_path)) == 2 * len(RUN.cells)


def test_where_no_log_can_be_had_the_store_works_without(tmp_path: Path) -> None:
    # locks by files cannot share the memory that the log needs, just as network disks
    uri = f"{(tmp_path / 'run.sqlite').as_uri()}?vfs=unix-dotfile"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        write_ahead(connection)
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
