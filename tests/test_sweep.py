from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch

import initstats as ist
from initstats import activations, inits
from initstats.failure import Failure
from initstats.moments import STATISTICS, bin_edges
from initstats.registry.catalog import forget_modules
from initstats.stack import Settings
from initstats.store import StoreError, load_run, load_sessions
from initstats.sweep import Cell, FailedCellsError, load_plugins, running
from initstats.sweep.attempts import attempted
from initstats.sweep.work import (
    SECONDS_EACH,
    Engine,
    Task,
    estimated_seconds,
    suited_workers,
    tasks,
)
from initstats.workers import ThisProcess, Workers

SMALL = ist.Grid(
    inits=["kaiming_normal", "matched", "lsuv", "torch_default"],
    activations=["relu", "gelu", "general_relu(leak=0.2)"],
    widths=[9, 6],
    depth=3,
    seeds=3,
    backward=True,
)
KEYS = ["dataset", *Cell._fields, "layer", "tensor", "direction"]


def assert_same(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """Bit for bit, the order of rows and of categories included."""
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    for name in ours.select_dtypes("float64"):
        assert ours[name].to_numpy().tobytes() == theirs[name].to_numpy().tobytes(), name


def rows_of(table: pd.DataFrame, grid: ist.Grid) -> pd.DataFrame:
    """The rows of a grid's cells in its order, as a table of their own."""
    keys = ["network", "init", "activation", "width", "seed"]
    table = table.astype({"init": "str", "activation": "str"})
    by_cell = dict(list(table.groupby(keys, observed=True)))
    rows = pd.concat([by_cell[tuple(cell)] for cell in grid], ignore_index=True)
    names = {
        "init": [entry.name for entry in grid.inits],
        "activation": [entry.name for entry in grid.activations],
    }
    return rows.astype({key: pd.CategoricalDtype(order) for key, order in names.items()})


@pytest.fixture(scope="module")
def whole(toy: ist.Dataset) -> pd.DataFrame:
    return ist.run_sweep(SMALL, toy)


# the grid


def test_the_default_study_tells_the_story() -> None:
    grid = ist.Grid.default()
    assert 10 <= len(grid.inits) <= 12
    assert 12 <= len(grid.activations) <= 14
    assert [network.name for network in grid.networks] == ["mlp"]
    assert (grid.widths, grid.depth, grid.split) == ((50,), 20, "valid")
    assert grid.seeds == tuple(range(10))
    assert len(grid) == len(list(grid)) == 10 * len(grid.inits) * len(grid.activations)


def test_cells_are_in_the_order_of_the_lists() -> None:
    grid = ist.Grid(inits=["zeros", "normal"], activations=["tanh"], widths=[7, 5], seeds=[4, 1])
    assert list(grid)[:3] == [
        Cell("mlp", "zeros", "tanh", 7, 4),
        Cell("mlp", "zeros", "tanh", 7, 1),
        Cell("mlp", "zeros", "tanh", 5, 4),
    ]
    assert [cell.init for cell in grid] == ["zeros"] * 4 + ["normal"] * 4


def test_entries_and_callables_are_names_too() -> None:
    grid = ist.Grid(
        inits=[inits.get("normal"), torch.nn.init.kaiming_uniform_],
        activations=[torch.tanh, activations.get("relu"), lambda x: x * 2, "sin"],
        widths=np.array([3, 5]),
        seeds=np.int64(2),
    )
    assert grid.config["inits"] == ["normal", "kaiming_uniform_"]
    assert grid.config["activations"] == ["tanh", "relu", "lambda", "sin"]
    assert (grid.widths, grid.seeds) == ((3, 5), (0, 1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inits": ["kaiming"]}, "^inits: unknown init 'kaiming': did you mean 'kaiming_normal'"),
        ({"activations": []}, "^activations: the list is empty: name at least one$"),
        ({"activations": {}}, "^activations: the list is empty: name at least one$"),
        ({"networks": [{}]}, "^networks: the list is empty: name at least one$"),
        ({"activations": "relu"}, "^activations: a list is expected, not 'relu'$"),
        ({"activations": ["relu", "relu()"]}, "^activations: named twice: relu$"),
        ({"inits": [3]}, "^inits: an init is a name or a callable, not 3$"),
        ({"network": "rnn"}, "^networks: unknown network 'rnn': .* available: mlp, cnn, resnet, "),
        ({"widths": [50, -1]}, "^widths: -1 is not between 1 and 1000000$"),
        ({"widths": [5, 5]}, "^widths: named twice: 5$"),
        ({"widths": [2.5]}, "^widths: 2.5 is not a whole number$"),
        ({"widths": [True]}, "^widths: True is not a whole number$"),
        (
            {"widths": [100_000]},
            "width 100000 and depth 20 .* need some [0-9]+ GB of memory, and at most 8",
        ),
        ({"depth": 0}, "^depth: 0 is not between 1 and 10000$"),
        ({"depth": 10**9}, "^depth: 1000000000 is not between 1 and 10000$"),
        ({"seeds": 0}, "^seeds: 0 is not between 1 and 10000000$"),
        ({"seeds": 10**9}, "^seeds: 1000000000 is not between 1 and 10000000$"),
        ({"seeds": [1, -2]}, "^seeds: -2 is not between 0 and"),
        ({"split": "validation"}, "^split: unknown split 'validation': did you mean 'valid'"),
        ({"samples": 0}, "^samples: 0 is not between 1 and"),
        ({"backward": "no"}, "^backward: Input should be a valid boolean"),
        ({"width": 50}, "^unknown field 'width': did you mean 'widths'"),
        (
            {"inits": ["foo", "lsuw"], "depth": -1, "activations": ()},
            "^inits: unknown init 'foo'.*; inits: unknown init 'lsuw': did you mean 'lsuv'.*; "
            "activations: the list is empty.*; depth: -1 is not between 1 and 10000$",
        ),
    ],
)
def test_a_grid_names_its_faults_in_a_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ist.Grid(**fields)
    assert "\n" not in str(caught.value)


def test_a_grid_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        SMALL.depth = 4  # type: ignore[misc]


@pytest.mark.parametrize("grid", [SMALL, ist.Grid(seeds=[3, 1], samples=7), ist.Grid()])
def test_a_grid_survives_its_file(tmp_path: Path, grid: ist.Grid) -> None:
    (tmp_path / "grid.toml").write_text(grid.to_toml())
    assert ist.Grid.from_toml(tmp_path / "grid.toml") == grid


# the table


def test_one_row_per_cell_layer_tensor_and_direction(whole: pd.DataFrame) -> None:
    assert list(whole.columns) == [*KEYS, *STATISTICS]
    assert len(whole) == len(SMALL) * SMALL.depth * 4
    assert not whole.duplicated(KEYS).any()
    cells = whole[list(Cell._fields)].drop_duplicates().itertuples(index=False, name=None)
    assert list(cells) == [tuple(cell) for cell in SMALL]
    assert set(whole["dataset"]) == {"toy"}
    assert list(whole["activation"].cat.categories) == ["relu", "gelu", "general_relu(leak=0.2)"]
    assert set(whole.query("tensor == 'activation'")["count"]) == {41 * 9, 41 * 6}


def test_first_layer_is_that_of_the_weights_drawn_by_hand(toy: ist.Dataset) -> None:
    grid = ist.Grid(inits=["kaiming_normal"], activations=["relu"], widths=[7], depth=1, seeds=[5])
    row = ist.run_sweep(grid, toy).query("tensor == 'activation'").iloc[0]
    from initstats.draws import generator_for

    weight = torch.nn.init.kaiming_normal_(
        torch.empty(7, 64), nonlinearity="relu", generator=generator_for(5, 1)
    )
    a = (toy.valid.x @ weight.T).relu().double()
    assert row["mean"] == pytest.approx(float(a.mean()), rel=1e-6)
    assert row["std"] == pytest.approx(float(a.std()), rel=1e-6)


def test_lsuv_is_fitted_on_training_images(toy: ist.Dataset) -> None:
    std = {
        split: ist.run_sweep(
            ist.Grid(inits=["lsuv"], activations=["relu"], depth=1, seeds=1, split=split), toy
        )["std"][0]
        for split in ("train", "valid")
    }
    assert std["train"] == pytest.approx(1, abs=1.1e-3)
    assert abs(std["valid"] - 1) > 1e-2


def test_depth_contains_every_smaller_depth(whole: pd.DataFrame, toy: ist.Dataset) -> None:
    grid = SMALL.model_copy(update={"depth": 2, "backward": False})
    forward = whole.query("direction == 'forward' and layer <= 2").reset_index(drop=True)
    forward["direction"] = forward["direction"].cat.remove_unused_categories()
    assert_same(ist.run_sweep(grid, toy), forward)


@pytest.mark.parametrize(
    "change",
    [
        {"inits": ["lsuv"], "activations": ["gelu"], "widths": [6], "seeds": [2]},
        {"inits": ["matched", "kaiming_normal"], "seeds": [1, 0]},
        {
            "inits": ["torch_default", "lsuv", "matched", "kaiming_normal"],
            "activations": ["general_relu(leak=0.2)", "gelu", "relu"],
            "widths": [6, 9],
            "seeds": [2, 1, 0],
        },
    ],
    ids=["one cell", "some", "all reversed"],
)
def test_other_grids_give_the_same_bits(
    whole: pd.DataFrame, toy: ist.Dataset, change: dict[str, Any]
) -> None:
    grid = ist.Grid(**SMALL.config | change)
    assert_same(ist.run_sweep(grid, toy), rows_of(whole, grid))


def test_cnn_cells_depend_on_their_key_alone(toy: ist.Dataset) -> None:
    fields: dict[str, Any] = {"network": "cnn", "widths": [2], "depth": 3, "backward": True}
    grid = ist.Grid(inits=["matched", "normal"], activations=["relu", "tanh"], seeds=2, **fields)
    one = ist.Grid(inits=["normal"], activations=["tanh"], seeds=[1], **fields)
    assert_same(ist.run_sweep(one, toy), rows_of(ist.run_sweep(grid, toy), one))


def test_any_executor_gives_the_same_bits(whole: pd.DataFrame, toy: ist.Dataset) -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with ThreadPoolExecutor(3) as executor:
            assert_same(ist.run_sweep(SMALL, toy, executor=executor), whole)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


PLUGIN = '''
import initstats as ist

@ist.activation()
def half_relu(x, *, share=0.5):
    """Keeps a share below zero."""
    return x.clamp_min(0) + share * x.clamp_max(0)

@ist.register_statistic(integer=True)
def extremes(s):
    """how many units touch the largest entry"""
    return (s.unit("max") == s.max[:, None]).sum(axis=1)
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[str]:
    """The file of an activation and of a statistic, which are forgotten after the test."""
    (file := tmp_path / "my_plugin.py").write_text(PLUGIN)
    yield str(file)
    forget_modules([str(file)])


def test_two_workers_give_the_same_bits(
    whole: pd.DataFrame, toy: ist.Dataset, tmp_path: Path, plugin: str
) -> None:
    load_plugins([plugin])
    fields = SMALL.config
    fields["activations"] += ["half_relu", "half_relu(share=0.1)"]
    grid = ist.Grid(**fields)
    seen: list[tuple[int, int]] = []
    table = ist.run_sweep(
        grid, toy, out=tmp_path / "run", workers=2, progress=lambda *now: seen.append(now)
    )
    shares = dict(zip(table["activation"], table.pop("activation_share"), strict=True))
    assert shares["half_relu"] == 0.5
    assert shares["half_relu(share=0.1)"] == 0.1
    assert np.isnan(shares["gelu"])
    assert (table["extremes"] >= 1).all()
    assert_same(rows_of(table.drop(columns="extremes"), SMALL), whole)
    table.insert(9, "activation_share", table["activation"].astype("str").map(shares))
    assert_same(table, ist.run_sweep(grid, toy))
    assert_same(table, ist.load_table(tmp_path / "run"))
    assert seen == [(done, len(grid)) for done in range(len(grid) + 1)]


def test_the_world_stays_as_it_was(toy: ist.Dataset) -> None:
    torch.set_num_threads(2)
    try:
        state = torch.get_rng_state()
        ist.run_sweep(ist.Grid(inits=["lsuv"], activations=["gelu"], depth=2, seeds=1), toy)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_num_threads() == 2
        assert torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float32
    finally:
        torch.set_num_threads(1)


# the folder


def test_a_folder_keeps_what_is_needed_to_do_it_again(
    whole: pd.DataFrame, toy: ist.Dataset, tmp_path: Path
) -> None:
    ist.run_sweep(SMALL, toy, out=tmp_path, source="a/folder", plugins=["mine", "more.py"])
    assert_same(ist.load_table(tmp_path), whole)
    config = tomllib.loads((tmp_path / "grid.toml").read_text())
    assert config.pop("data") == str(Path("a/folder").resolve())
    assert config.pop("plugins") == ["mine", str(Path("more.py").resolve())]
    assert ist.Grid(**config) == SMALL
    assert load_run(tmp_path).settings["samples"] == 41
    assert set(load_sessions(tmp_path)) >= {"cells", "seconds", "torch", "workers", "cores"}


def test_histograms_hold_every_entry(toy: ist.Dataset, tmp_path: Path) -> None:
    grid = ist.Grid(inits=["matched"], activations=["relu"], widths=[7], depth=2, seeds=1)
    table = ist.run_sweep(grid, toy, out=tmp_path)
    bins = ist.load_histograms(tmp_path)
    assert set(bins["low"]) <= set(bin_edges()[0])
    keys = [*KEYS[1:]]
    ends = bins.groupby(keys, observed=True, as_index=False).agg(
        low=("low", "min"), high=("high", "max"), total=("count", "sum")
    )
    both = table.merge(ends, on=keys)
    assert len(both) == len(table)
    assert (both["low"] >= 1.13 * both["min"].clip(upper=0) - 1e-30).all()
    assert (both["high"] <= 1.13 * both["max"]).all()
    assert np.allclose(both["total"], both["count"], rtol=0.2)


def test_a_longer_list_computes_only_what_is_missing(
    whole: pd.DataFrame, toy: ist.Dataset, tmp_path: Path
) -> None:
    fields = SMALL.config
    first = ist.Grid(**fields | {"seeds": [1], "inits": ["lsuv"], "activations": ["gelu"]})
    ist.run_sweep(first, toy, out=tmp_path)
    seen: list[tuple[int, int]] = []
    table = ist.run_sweep(SMALL, toy, out=tmp_path, progress=lambda *now: seen.append(now))
    assert_same(table, whole)
    assert seen[0] == (len(first), len(SMALL))
    stored = ist.load_table(tmp_path)
    assert list(stored["init"].cat.categories)[:2] == ["lsuv", "kaiming_normal"]
    assert_same(rows_of(stored, SMALL), whole)
    assert_same(ist.run_sweep(first, toy, out=tmp_path), rows_of(whole, first))
    assert list(load_sessions(tmp_path)["cells"]) == [len(first), len(SMALL) - len(first), 0]


def test_a_network_extends_a_run(toy: ist.Dataset, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"inits": ["zeros", "normal"], "activations": ["relu"], "seeds": 1}
    dense = ist.run_sweep(ist.Grid(**fields, depth=2), toy, out=tmp_path)
    images = ist.Grid(**fields, depth=2, network="cnn", widths=[2])
    conv = ist.run_sweep(images, toy, out=tmp_path)
    both = ist.load_table(tmp_path)
    assert list(both["network"].cat.categories) == ["mlp", "cnn"]
    kinds = {"network": "str"}
    pd.testing.assert_frame_equal(
        both.astype(kinds), pd.concat([dense, conv], ignore_index=True).astype(kinds)
    )
    bins = ist.load_histograms(tmp_path, networks="cnn", layers=1)
    assert set(bins["network"]) == {"cnn"}


def test_parameters_that_vary_are_columns(toy: ist.Dataset, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"activations": ["leaky_relu", torch.sin], "depth": 1, "seeds": 1}
    first = ist.run_sweep(ist.Grid(**fields, inits=["normal"]), toy, out=tmp_path)
    assert list(first.columns) == [*KEYS, *STATISTICS]
    table = ist.run_sweep(
        ist.Grid(**fields, inits=["normal(std=1)", "kaiming_normal", "normal(std=0.010)"]),
        toy,
        out=tmp_path,
    )
    assert list(table.columns) == [*KEYS, "init_std", *STATISTICS]
    stds = [1.0, np.nan, 0.01]
    assert table["init_std"].equals(pd.Series(np.repeat(stds, 4)))
    stored = ist.load_table(tmp_path)
    assert list(stored["init"].cat.categories) == ["normal", "normal(std=1)", "kaiming_normal"]
    assert stored["init_std"].equals(pd.Series(np.repeat([0.01, 1.0, np.nan], 4)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 4}, r"\(depth: 3 there, 4 asked\)"),
        ({"samples": 40}, r"\(samples: 41 there, 40 asked\)"),
        (
            {"split": "train"},
            "data: .* asked; split: valid there, train asked; samples: 41 there, 96",
        ),
        ({"backward": False}, r"\(backward: True there, False asked\)"),
    ],
)
def test_other_settings_are_refused(
    toy: ist.Dataset, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    fields = SMALL.config | {"inits": ["zeros"], "seeds": 1}
    ist.run_sweep(ist.Grid(**fields), toy, out=tmp_path)
    before = ist.load_table(tmp_path)
    with pytest.raises(StoreError, match=message):
        ist.run_sweep(ist.Grid(**fields | change), toy, out=tmp_path)
    assert_same(ist.load_table(tmp_path), before)


def test_other_data_are_refused(toy: ist.Dataset, tmp_path: Path) -> None:
    grid = ist.Grid(inits=["zeros"], activations=["relu"], depth=1, seeds=1)
    ist.run_sweep(grid, toy, out=tmp_path)
    other = toy.train.raw.copy(), toy.train.labels
    other[0][0, 9] += 1
    changed = ist.Dataset.from_arrays(other, (toy.valid.raw, toy.valid.labels), name="toy")
    with pytest.raises(StoreError, match=r"\(data: [0-9a-f]{16} there, [0-9a-f]{16} asked\)"):
        ist.run_sweep(grid, changed, out=tmp_path)


def test_engine_choices_of_a_run_are_kept(
    whole: pd.DataFrame, toy: ist.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = ist.Grid(**SMALL.config | {"seeds": [0]})
    ist.run_sweep(part, toy, out=tmp_path)
    choose(monkeypatch, tile=100, kernels="torch", batch=2)
    assert not ist.run_sweep(part, toy).equals(ist.run_sweep(part, toy, out=tmp_path))
    assert_same(ist.run_sweep(SMALL, toy, out=tmp_path), whole)


def choose(monkeypatch: pytest.MonkeyPatch, **choices: Any) -> None:
    """New runs make these choices of their engine, as on another machine."""
    suited = Settings.suited

    def changed(settings: Settings, seeds: int) -> Settings:
        return replace(suited(settings, seeds), **choices)

    monkeypatch.setattr(Settings, "suited", changed)


def test_seeds_that_share_passes_can_be_left_out_and_added(
    toy: ist.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, kernels="torch", batch=3)
    fields: dict[str, Any] = {"inits": ["kaiming_normal", "lsuv"], "depth": 3, "backward": True}
    grid = ist.Grid(**fields, activations=["relu", "tanh"], seeds=5)
    done: list[int] = []
    whole = ist.run_sweep(grid, toy, progress=lambda now, total: done.append(now))
    assert done == list(range(len(grid) + 1))
    ist.run_sweep(ist.Grid(**fields, activations=["tanh"], seeds=[4, 1]), toy, out=tmp_path)
    ist.run_sweep(ist.Grid(**fields, activations=["relu", "tanh"], seeds=[2]), toy, out=tmp_path)
    with ThreadPoolExecutor(2) as executor:
        assert_same(ist.run_sweep(grid, toy, out=tmp_path, executor=executor), whole)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"dtype": "float16"}, "dtype: unknown dtype 'float16': did you mean 'bfloat16'"),
        ({"device": "gpu"}, "device: 'gpu' is not a device that can be used: cpu, cuda or"),
        ({"device": "cuda:x"}, "device: 'cuda:x' is not"),
    ],
)
def test_types_and_devices_are_checked(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        ist.Grid(**fields)


def test_a_device_that_is_not_there_is_refused(toy: ist.Dataset, tmp_path: Path) -> None:
    grid = ist.Grid(device="cuda:63", seeds=1)
    with pytest.raises(ValueError, match=r"device: 'cuda:63' cannot be used here \(.+\); without"):
        ist.run_sweep(grid, toy, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_keeps_its_type(toy: ist.Dataset, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"inits": ["kaiming_normal"], "activations": ["relu"], "seeds": 1}
    double = ist.run_sweep(ist.Grid(**fields, dtype="float64"), toy, out=tmp_path)
    single = ist.run_sweep(ist.Grid(**fields), toy)
    gap = (double["std"] / single["std"] - 1).abs().max()
    assert 0 < gap < 1e-5
    assert ist.Grid.from_toml(tmp_path / "grid.toml").dtype == "float64"
    with pytest.raises(StoreError, match=r"dtype: float64 there, float32 asked"):
        ist.run_sweep(ist.Grid(**fields), toy, out=tmp_path)


# interruptions


def test_an_interruption_keeps_what_is_committed(
    whole: pd.DataFrame, toy: ist.Dataset, tmp_path: Path
) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ist.run_sweep(SMALL, toy, out=tmp_path, progress=interrupt)
    partial = ist.load_table(tmp_path)
    assert len(partial) == 9 * SMALL.depth * 4
    assert set(partial["seed"]) == {0}
    assert_same(ist.run_sweep(SMALL, toy, out=tmp_path), whole)


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import pandas as pd
import torch
import initstats as ist
from initstats import store

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(1)
x = torch.rand(400, 8, 8, generator=generator)
data = ist.Dataset.from_arrays((x[:200], [0] * 200), (x[200:], [0] * 200))
grid = ist.Grid(
    inits=["kaiming_normal", "matched", "lsuv"], activations=["relu", "gelu", "tanh", "selu"],
    widths=[8], depth=10, seeds=4, backward=True,
)
out, most = Path(sys.argv[1]), int(sys.argv[2])
expected = ist.run_sweep(grid, data, out=out / "whole")

chance = random.Random(2)
kills = caught = runs = 0
while kills < most:
    runs += 1
    folder = out / str(runs)
    while True:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                tell = lambda *_: os.write(writer, b".")
                ist.run_sweep(grid, data, out=folder, progress=tell)
                os._exit(0)
            finally:
                os._exit(1)
        os.close(writer)
        if kills < most:
            for _ in range(chance.randrange(20)):
                os.read(reader, 1)
            time.sleep(chance.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        os.close(reader)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        kills += 1
        if (folder / "run.sqlite").exists() and (folder / "run.sqlite").stat().st_size:
            try:
                caught += 0 < len(store.load_table(folder)) < len(expected)
            except store.StoreError as error:
                assert "never began" in str(error), error
    for load in (ist.load_table, ist.load_histograms):
        pd.testing.assert_frame_equal(load(folder), load(out / "whole"), check_exact=True)
    assert sorted(os.listdir(folder)) == ["grid.toml", "run.lock", "run.sqlite"]
assert caught >= most / 4, f"only {caught} kills found a run half done"
print(kills, caught, runs)
"""


def run_script(code: str, *arguments: str | Path) -> str:
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="drivers are forked, which costs no time")
@pytest.mark.parametrize("most", [6, pytest.param(400, marks=pytest.mark.faults)])
def test_kills_change_nothing(most: int, tmp_path: Path, tell: Any) -> None:
    kills, caught, _ = map(int, run_script(KILLS, tmp_path, str(most)).split())
    assert kills >= most
    tell("SIGKILL to a driver that is a fork", [{}] * kills, caught)


DEADLY = f"""
import os
import initstats as ist

@ist.register_activation()
def deadly(x):
    if 5 in x.shape and os.getpid() != {os.getpid()}:
        os.kill(os.getpid(), 9)
    return x * 1
"""


def test_a_cell_that_ends_its_worker_is_a_result(
    toy: ist.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly.py").write_text(DEADLY)
    load_plugins([str(tmp_path / "deadly.py")])
    fields: dict[str, Any] = {"inits": ["zeros"], "widths": [5, 6], "depth": 1, "seeds": 1}
    grid = ist.Grid(**fields, activations=["relu", "deadly"])
    monkeypatch.setattr("initstats.sweep.attempts.TRIES", 2)
    message = "1 of 4 cells failed: its worker process was ended by SIGKILL, as for want of memory"
    with pytest.raises(FailedCellsError, match=message) as told:
        ist.run_sweep(grid, toy, workers=2)
    error = pickle.loads(pickle.dumps(told.value))
    assert str(error) == str(told.value)
    assert "(mlp zeros deadly 5 0). The others are measured" in str(error)
    assert_same(
        rows_of(error.table, ist.Grid(**fields, activations=["relu"])),
        ist.run_sweep(ist.Grid(**fields, activations=["relu"]), toy),
    )
    assert list(error.failures["activation"]) == ["deadly"]


@pytest.mark.parametrize(("lost", "tries"), [(True, 4), (False, 2)])
def test_a_task_that_fails_is_tried_cell_by_cell(lost: bool, tries: int) -> None:
    """Whole at first, then each cell; only what lost its worker comes again."""
    grid = ist.Grid(inits=["zeros"], activations=["relu", "tanh", "gelu"], seeds=1)
    seen = Counter[str]()

    class Failing:
        def map(
            self, engine: object, tasks: Sequence[Task], *, alone: bool
        ) -> Generator[tuple[Task, Any]]:
            assert alone == bool(seen)
            for task in tasks:
                names = [cell.activation for cell in task.cells]
                seen.update(names)
                yield task, Failure("no", lost=lost) if "tanh" in names else names

    failing: Any = Failing()
    found = {
        cell.activation: outcome
        for task, outcome in attempted(failing, mock.Mock(), tasks(grid, (), 1))
        for cell in task.cells
    }
    assert seen == {"relu": 2, "gelu": 2, "tanh": tries}
    assert found == {"relu": ["relu"], "gelu": ["gelu"], "tanh": Failure("no", lost=lost)}


# how many workers


@pytest.mark.parametrize(
    ("fields", "samples", "seconds"),
    [
        ({"activations": ["relu", "tanh"], "inits": ["normal"], "seeds": 1}, 10_000, (0.05, 1)),
        ({}, 10_000, (40, 200)),  # the default study
        ({"network": "cnn", "widths": [8], "seeds": 4}, 10_000, (100, 5_000)),
        ({}, 10, (0.01, 1)),
    ],
)
def test_work_is_estimated(
    fields: dict[str, Any], samples: int, seconds: tuple[float, float], mnist: ist.Dataset
) -> None:
    grid = ist.Grid(**fields)
    engine = Engine(mnist.valid, mnist.train, Settings(grid.depth, samples))
    work = tasks(grid, (), 1)
    assert seconds[0] < estimated_seconds(work, engine) < seconds[1]


def test_workers_start_for_work_that_pays_for_them(
    mnist: ist.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    grid = ist.Grid()
    work = tasks(grid, (), 1)
    engine = Engine(mnist.valid, mnist.train, Settings(grid.depth, 10_000))
    assert suited_workers(work[:1], engine) == 1
    each = estimated_seconds(work[:1], engine)
    two = round(2.5 * SECONDS_EACH / each)
    assert suited_workers(work[:two], engine) == 2
    assert suited_workers(work, engine) == 8
    assert suited_workers(work, replace(engine, settings=Settings(20, 10_000, device="cuda"))) == 1
    assert suited_workers([], engine) == 1


def test_workers_are_chosen_by_the_work(
    toy: ist.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = ist.Grid(inits=["zeros"], activations=["relu"], depth=1, seeds=2)
    ist.run_sweep(grid, toy, workers=None, out=tmp_path)
    assert list(load_sessions(tmp_path)["workers"]) == [1]
    monkeypatch.setattr(running, "suited_workers", lambda work, engine: 2)
    asked: list[int] = []

    def started(count: int, engine: Engine) -> Workers:
        asked.append(count)
        return ThisProcess()

    monkeypatch.setattr(running, "_own_workers", started)
    ist.run_sweep(grid, toy, workers=None)
    by_hand = ist.Grid(inits=["zeros"], activations=[lambda x: x * 2], depth=1, seeds=2)
    ist.run_sweep(by_hand, toy, workers=None)  # which no other process can read
    assert asked == [2, 1]


# what is refused before anything starts


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({"samples": 42}, {}, "samples: 42 are asked for, and the valid split of 'toy' holds 41"),
        ({"split": "test"}, {}, "split: dataset 'toy' has no 'test' split"),
        ({}, {"workers": 0}, "workers: at least one is needed, not 0"),
        (
            {"activations": ["relu", lambda x: x * 2]},
            {"workers": 2},
            "activation 'lambda' cannot be sent to another process: .* use workers=1",
        ),
    ],
)
def test_what_cannot_be_measured_leaves_no_folder(
    toy: ist.Dataset,
    tmp_path: Path,
    fields: dict[str, Any],
    options: dict[str, Any],
    message: str,
) -> None:
    grid = ist.Grid(**{"inits": ["zeros"], "activations": ["relu"], "depth": 1} | fields)
    with pytest.raises(ValueError, match=message):
        ist.run_sweep(grid, toy, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


NOTEBOOK = """
import sys
from pathlib import Path
import torch
import initstats as ist

@ist.register_activation()
def mine_activation(x):
    return x * 1

@ist.register_init()
def mine_init(weight, generator):
    return weight.normal_(generator=generator)

x = torch.rand(20, 4, generator=torch.Generator().manual_seed(0))
data = ist.Dataset.from_arrays((x, [0] * 20), (x, [0] * 20))
small = dict(inits=["zeros"], activations=["relu"], depth=1, seeds=2)

def refused(**fields):
    grid = ist.Grid(**small | fields)
    ist.run_sweep(grid, data, workers=1)
    try:
        ist.run_sweep(grid, data, workers=2, out=sys.argv[1])
    except ValueError as error:
        print(error)
    assert not Path(sys.argv[1]).exists()

refused(activations=["mine_activation"])
refused(inits=["mine_init"])

@ist.register_statistic()
def mine_statistic(s):
    return s.count

refused()
"""


def test_entries_of_a_notebook_are_refused(tmp_path: Path) -> None:
    told = run_script(NOTEBOOK, tmp_path / "run").splitlines()
    for noun, line in zip(("activation", "init", "statistic"), told, strict=True):
        assert line.startswith(f"{noun} 'mine_{noun}' is defined in a notebook or at a prompt")
        assert "put it into a module (a file.py) and import that, or use workers=1" in line


def test_statistics_of_a_plugin_are_a_runs_from_then_on(
    toy: ist.Dataset, tmp_path: Path, plugin: str
) -> None:
    grid = ist.Grid(inits=["normal"], activations=["relu"], depth=1, seeds=1)
    more = ist.Grid(inits=["normal"], activations=["relu"], depth=1, seeds=3)
    ist.run_sweep(grid, toy, out=tmp_path / "run")
    load_plugins([plugin])
    with pytest.warns(UserWarning, match="extremes will be NaN in 1 cell, measured before"):
        table = ist.run_sweep(more, toy, out=tmp_path / "run")
    assert_same(table[table["seed"] > 0], ist.run_sweep(more, toy)[2:].astype(table.dtypes))
    assert list(table.columns[-1:]) == ["extremes"]
    assert (table["extremes"][2:] >= 1).all()
    STATISTICS.remove("extremes")
    old = ist.run_sweep(more, toy, out=tmp_path / "run")
    assert_same(old, table.drop(columns="extremes"))
    assert list(ist.load_table(tmp_path / "run")["extremes"].isna()) == [True] * 2 + [False] * 4


def test_a_cnn_needs_images(tmp_path: Path) -> None:
    flat = torch.rand(6, 5, generator=torch.Generator().manual_seed(0))
    data = ist.Dataset.from_arrays((flat, [0] * 6), (flat, [0] * 6))
    grid = ist.Grid(inits=["zeros"], activations=["relu"], network="cnn", depth=1, seeds=1)
    with pytest.raises(ValueError, match=r"network 'cnn': a convolution needs images .*\(5,\)"):
        ist.run_sweep(grid, data, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_callables_work_in_process(toy: ist.Dataset) -> None:
    grid = ist.Grid(
        inits=[lambda weight, generator: weight.normal_(0, 0.2, generator=generator)],
        activations=[lambda x: x.clamp_min(0) - 0.5],
        depth=2,
        seeds=1,
    )
    table = ist.run_sweep(grid, toy)
    assert set(table["init"]) == set(table["activation"]) == {"lambda"}
    assert (table.query("tensor == 'activation'")["min"] == -0.5).all()


MEMORY = """
import re, resource
from pathlib import Path
import initstats as ist

def grid(samples):
    return ist.Grid(
        inits=["kaiming_normal", "lsuv"], activations=["relu", "gelu"], depth=4, seeds=1,
        split="train", samples=samples,
    )

data = ist.load_data()
ist.run_sweep(grid(9), data)
for samples in (10_000, 50_000):
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # the peak of loading is not ours
        ist.run_sweep(grid(samples), data)
        print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    else:
        ist.run_sweep(grid(samples), data)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_samples() -> None:
    few, many = map(int, run_script(MEMORY).split())
    assert many < 1.1 * few


def test_named_data_is_told_of() -> None:
    with pytest.raises(TypeError, match="a Grid and a Dataset, not Grid and str: load_data"):
        ist.run_sweep(ist.Grid(), "mnist")  # type: ignore[arg-type]
