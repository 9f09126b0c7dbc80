"""Plans: what a sweep will take, told from a few of its cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import initstats as ist
from initstats.plan import queue
from initstats.plan.plan import Plan
from initstats.plan.trial import Rates, Trial
from initstats.plots import Results
from initstats.report import study
from initstats.store import Store
from initstats.sweep import work
from initstats.sweep.running import asked_for
from initstats.sweep.work import Task, multiply_adds, tasks


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short trials."""
    for module in ("trial", "driving", "theory"):
        monkeypatch.setattr(f"initstats.plan.{module}.SECONDS", 0.05)


GRID = ist.Grid(
    inits=["kaiming_normal", "matched", "lsuv"],
    activations=["relu", "tanh"],
    widths=[5, 7],
    depth=3,
    seeds=4,
    samples=9,
)


@pytest.fixture
def plan(toy: ist.Dataset) -> Plan:
    return ist.plan_sweep(GRID, toy)


@pytest.fixture(scope="module")
def run(toy: ist.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    ist.run_sweep(GRID, toy, out=folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# the numbers


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # 64 pixels to 5 units once, then twice 5 to 5 under both activations
        ({}, 9 * (64 * 5 + 2 * 2 * 25)),
        # on the way back all but the first layer again
        ({"backward": True}, 9 * (64 * 5 + 2 * 2 * 25 + 2 * 2 * 25)),
        # 8 x 8 pixels, 5 x 5 of them to 5 channels on 4 x 4; 3 x 3 x 5 to 10 on 2 x 2
        (
            {"network": "cnn", "depth": 2},
            9 * (25 * 5 * 16 + 2 * 9 * 5 * 10 * 4),
        ),
    ],
)
def test_operations_are_those_by_hand(
    fields: dict[str, Any], expected: int, toy: ist.Dataset
) -> None:
    given: dict[str, Any] = {"depth": 3, "widths": [5], "seeds": 1, "samples": 9} | fields
    grid = ist.Grid(inits=["matched"], activations=["relu", "tanh"], **given)
    engine, _, _ = asked_for(grid, toy, 1)
    (task,) = tasks(grid, (), 1)
    assert multiply_adds(task, engine) == expected


def test_a_plan_counts_what_is_left(toy: ist.Dataset, run: Path, plan: Plan) -> None:
    assert (plan.cells, plan.done, plan.left, plan.workers) == (48, 0, 48, 1)
    before = contents(run)
    longer = ist.Grid(**vars(GRID) | {"seeds": 6, "activations": ["relu", "gelu"]})
    more = ist.plan_sweep(longer, toy, out=run, workers=2)
    assert (more.cells, more.done, more.left) == (72, 24, 48)
    assert contents(run) == before
    assert list(more.seconds) == sorted({1, 2} | {*more.seconds})
    with pytest.raises(ValueError, match="other settings .depth: 3 there, 4 asked.*: ask for"):
        ist.plan_sweep(ist.Grid(**vars(GRID) | {"depth": 4}), toy, out=run)


def test_a_finished_run_needs_nothing(toy: ist.Dataset, run: Path) -> None:
    plan = ist.plan_sweep(GRID, toy, out=run)
    assert (plan.left, plan.operations, plan.seconds[1]) == (0, 0, 0)
    assert "0 to measure, 48 of 48 done" in str(plan)


def test_sizes_are_those_of_the_run(run: Path, plan: Plan) -> None:
    store = (run / "run.sqlite").stat().st_size
    assert plan.store_bytes == pytest.approx(store, rel=0.3)
    table = ist.load_table(run).memory_usage(deep=True).sum()
    assert plan.table_bytes == pytest.approx(table, rel=0.3)


def test_a_plan_writes_nothing(
    toy: ist.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    ist.plan_sweep(GRID, toy, out=tmp_path / "run", theory=True)
    assert not list(tmp_path.iterdir())


def test_costs_are_products_of_size_and_init() -> None:
    """Two inits at two sizes; the fourth of the pairs was not tried."""
    default = ist.Grid()

    def task(name: str) -> Task:
        (init,) = (each for each in default.inits if each.name == name)
        return Task(default.networks[0], init, default.activations[:2], 5, (0,))

    tried = [
        Trial(task(init), [], size, 0.5 * each, each)
        for init, size, each in [("normal", 1.0, 2.0), ("lsuv", 1.0, 6.0), ("normal", 4.0, 12.0)]
    ]
    rates = Rates(tried)
    assert rates.seconds(task("normal"), 4.0) == pytest.approx(6 + 2 * 12)
    assert rates.seconds(task("lsuv"), 4.0) == pytest.approx(18 + 2 * 36)
    assert rates.seconds(task("lsuv"), 2.0) == pytest.approx((18 + 2 * 36) * (2.5 / 3) / 2)


@pytest.mark.parametrize(
    ("tasks", "workers", "expected"),
    [
        ([(1.0, 0.0)] * 10, 4, (3.0, 0.0, 0)),  # three rounds
        ([(1.0, 0.5)] * 4, 1, (4.5, 2 / 4.5, 0)),
        ([(1.0, 1.0)] * 8, 8, (9.0, 8 / 9, 7)),  # all come at once, and wait
        ([(5.0, 0.0), (1.0, 0.0), (1.0, 0.0)], 2, (5.0, 0.0, 0)),
        ([], 3, (0.0, 0.0, 0)),
    ],
)
def test_workers_wait_in_a_queue(
    tasks: list[tuple[float, float]], workers: int, expected: tuple[float, float, int]
) -> None:
    assert queue(tasks, workers) == pytest.approx(expected)


# many cells


def test_a_grid_of_a_million_cells_is_only_named() -> None:
    grid = ist.Grid(inits=["matched", "lsuv"], activations=["relu"], seeds=500_000)
    assert len(grid) == 1_000_000
    assert next(iter(grid)).init == "matched"
    with pytest.raises(
        ValueError, match=r"20,000,000 cells .* 20 GB .*: measure some of the seeds"
    ):
        ist.Grid(activations=["relu", "tanh"], widths=range(1, 101), inits=["lsuv"], seeds=100_000)


def test_many_activations_share_a_draw_in_parts(
    toy: ist.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = ist.Grid(inits=["matched", "lsuv"], activations=["relu", "tanh", "gelu"], seeds=2)
    grid = ist.Grid(**vars(grid) | {"depth": 2, "widths": [5]})
    whole = ist.run_sweep(grid, toy)
    monkeypatch.setattr(work, "MOST_TOGETHER", 2)
    assert [task.total for task in tasks(grid, (), 1)] == [2, 1] * 4
    assert ist.run_sweep(grid, toy).equals(whole)


def test_cells_of_a_task_are_committed_together(
    toy: ist.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    add_all = Store.add_all

    def counted(store: Store, results: Any) -> None:
        statements: list[str] = []
        store._connection.set_trace_callback(statements.append)
        add_all(store, results)
        store._connection.set_trace_callback(None)
        assert statements.count("BEGIN IMMEDIATE") == statements.count("COMMIT") == 1
        sizes.append(len(results))
        if len(sizes) > 1:  # places are written once
            rows = len(results) * 2 * GRID.depth
            assert len(statements) <= rows + len(results) + 6

    monkeypatch.setattr(Store, "add_all", counted)
    ist.run_sweep(GRID, toy, out=tmp_path)
    assert sizes == [2] * 24


def test_a_batch_is_committed_whole_or_not_at_all(run: Path, toy: ist.Dataset) -> None:
    engine, asked, _ = asked_for(GRID, toy, 1)
    task = tasks(GRID, (), 1)[0]
    (places, statistics, histograms), other = engine(task)
    with Store.open(None, asked, {}) as store:
        first, second = task.cells
        with pytest.raises(ValueError, match="of shape"):
            store.add_all(
                [(first, places, statistics, histograms), (second, places, other[1][1:], b"")]
            )
        assert not store.done()
        store.add_all([(first, places, statistics, histograms), (second, *other)])
        assert store.done() == {first, second}
        with pytest.raises(ValueError, match="UNIQUE"):
            store.add(first, places, statistics, histograms)


# pages of many combinations


def test_a_page_of_many_combinations_shows_some_and_counts_all(
    toy: ist.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "MOST_ROWS", 10)
    grid = ist.Grid(
        inits=["mean_field(sigma_w=0.5:4:7)", "normal"],
        activations=["relu"],
        widths=list(range(2, 10)),
        depth=1,
        seeds=1,
    )
    table = ist.run_sweep(grid, toy)
    html = study.compose(Results.of(table), rows=False).html()
    assert "show 6 of 7 mean_field and 6 of 8 widths, evenly taken." in html
    assert "10 of 64 combinations, evenly taken" in html
    assert ">56</td>" in html  # of the eight widths and seven spreads
    assert "mlp of width 7, 2 more" in html
    assert len(html) < 400_000
