"""What a run survives: broken bits, other people's files, and drivers in each other's way."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from initstats.store import (
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
)
from initstats.store.lock import held

RUN = Run(
    config={"inits": ["zeros", "normal"], "seeds": list(range(6))},
    settings={"dataset": "toy"},
    engine={},
    keys={"init": "text", "seed": "integer"},
    places={"layer": "integer", "tensor": "text"},
    statistics={"count": True, "mean": False, "std": False},
    bins=([-np.inf, 0.0, 1.0], [0.0, 1.0, np.inf]),
)
PLACES = [(layer, tensor) for layer in range(1, 9) for tensor in ("preactivation", "activation")]


def fill(folder: Path, run: Run = RUN, most: int = 100) -> set[object]:
    """Commit the cells that a folder lacks; those that it has."""
    with Store.open(folder, run, {"torch": "2"}) as store:
        done = store.done()
        for index, cell in enumerate(run.cells[:most]):
            if cell not in done:
                generator = np.random.default_rng(index)
                rows = generator.standard_normal((len(PLACES), 3))
                rows[:, 0] = index
                counts = generator.integers(0, 9, (len(PLACES), 3))
                store.add(cell, PLACES, rows, pack(counts))
    return {*done}


def query(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "run.sqlite", isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        for statement in statements:
            connection.execute(statement)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fill(folder := tmp_path_factory.mktemp("whole"))
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of a whole run."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


# damage


def judged(folder: Path, whole: Path, *, quickly: bool = False) -> str:
    """What becomes of a damaged run that is read, and then asked for again, if need be."""
    truth, bins = load_table(whole), load_histograms(whole)
    before, told = (folder / "run.sqlite").read_bytes(), ""
    for read, expected in ((load_table, truth), (load_histograms, bins)):
        try:
            pd.testing.assert_frame_equal(read(folder), expected, check_exact=True)
        except StoreError as error:
            told = str(error)
            assert "\n" not in told
            assert "damaged" in told or "another version" in told or "not a run" in told
    if quickly and not told:
        return "same"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fill(folder)
    except StoreError:
        assert told
        assert (folder / "run.sqlite").read_bytes() == before
        return "refused"
    pd.testing.assert_frame_equal(load_table(folder), truth, check_exact=True)
    pd.testing.assert_frame_equal(load_histograms(folder), bins, check_exact=True)
    return "mended" if told else "same"


@pytest.mark.parametrize(
    ("flips", "tails"), [(25, 3), pytest.param(600, 200, marks=pytest.mark.faults)]
)
def test_no_broken_bit_changes_a_table(
    run: Path, whole: Path, flips: int, tails: int, tell: Callable[..., None]
) -> None:
    file, raw = run / "run.sqlite", (whole / "run.sqlite").read_bytes()
    generator, became = random.Random(0), Counter[str]()
    for bit in (generator.randrange(8 * len(raw)) for _ in range(flips)):
        broken = bytearray(raw)
        broken[bit // 8] ^= 1 << bit % 8
        file.write_bytes(broken)
        became[judged(run, whole, quickly=flips < 100)] += 1
    for cut in sorted(generator.sample(range(1, 201), tails)):
        file.write_bytes(raw[:-cut])
        became[judged(run, whole, quickly=flips < 100)] += 1
    assert became["same"] > 0
    assert became["mended"] > 0
    assert became["refused"] > 0
    for word, count in became.items():
        tell(f"a flipped bit or a cut end: {word}", [{}] * count, count)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM measurement WHERE cell = 3 AND position = 4",
        "DELETE FROM measurement WHERE cell = 3",
        "UPDATE measurement SET mean = mean + 1e-12 WHERE cell = 3 AND position = 0",
        "UPDATE measurement SET mean = NULL WHERE cell = 3 AND position = 0",
        "UPDATE measurement SET mean = 'text' WHERE cell = 3 AND position = 0",
        "UPDATE measurement SET mean = x'00' WHERE cell = 3 AND position = 0",
        "UPDATE measurement SET place = 999 WHERE cell = 3 AND position = 0",
        "UPDATE measurement SET place = NULL WHERE cell = 3 AND position = 0",
        "UPDATE measurement SET place = 1 WHERE cell = 3 AND position = 1",
        "UPDATE measurement SET position = 99 WHERE cell = 3 AND position = 15",
        "UPDATE measurement SET cell = 99 WHERE cell = 3 AND position = 15",
        "UPDATE cell SET histogram = NULL WHERE id = 3",
        "UPDATE cell SET histogram = 7 WHERE id = 3",
        "UPDATE cell SET histogram = (SELECT histogram FROM cell WHERE id = 4) WHERE id = 3",
        "UPDATE cell SET checksum = NULL WHERE id = 3",
        "UPDATE cell SET init = 'zeroz' WHERE id = 3",
        "UPDATE cell SET init = CAST(x'ff' AS TEXT) WHERE id = 3",
        "UPDATE cell SET seed = NULL WHERE id = 3",
        "UPDATE cell SET id = 99 WHERE id = 3",
    ],
)
def test_a_damaged_cell_is_told_and_measured_again(run: Path, whole: Path, damage: str) -> None:
    query(run, damage)
    for read in (load_table, load_histograms):
        with pytest.raises(
            StoreError, match=r"1 cell is damaged \(.*\); the command .* again: ini"
        ):
            read(run)
    with pytest.warns(UserWarning, match=r"1 cell is damaged \(.*\), and will be measured again"):
        assert len(fill(run)) == len(RUN.cells) - 1
    assert judged(run, whole) == "same"


def test_many_damaged_cells_are_counted(run: Path, whole: Path) -> None:
    query(run, "UPDATE place SET layer = 77 WHERE id = 1")
    message = r"12 cells are damaged \(zeros 0, zeros 1, zeros 2, 9 more\)"
    with pytest.raises(StoreError, match=message):
        load_table(run)
    with pytest.warns(UserWarning, match=message):
        fill(run)
    assert judged(run, whole) == "same"


def test_an_index_that_is_damaged_is_made_again(run: Path, whole: Path) -> None:
    with closing(sqlite3.connect(run / "run.sqlite")) as connection:
        at = "SELECT rootpage FROM sqlite_master WHERE name = 'cells'"
        start = 4096 * (connection.execute(at).fetchone()[0] - 1)
    file = run / "run.sqlite"
    raw = bytearray(file.read_bytes())
    place = raw.index(b"zeros", start)
    raw[place : place + 5] = b"zebra"
    file.write_bytes(raw)
    assert judged(run, whole) == "same"
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_a_cell_older_than_a_statistic_is_sound(run: Path) -> None:
    more = replace(RUN, statistics={"abs": False, **RUN.statistics})
    with pytest.warns(UserWarning, match="abs will be NaN in 12 cells"):
        Store.open(run, more, {}).close()
    assert load_table(run)["abs"].isna().all()
    query(run, "UPDATE measurement SET abs = 1 WHERE cell = 3 AND position = 0")
    with pytest.raises(StoreError, match="1 cell is damaged"):
        load_table(run)


def test_predictions_that_are_damaged_are_told(run: Path) -> None:
    rows = pd.DataFrame({"init": ["zeros", "normal"], "mean": [0.5, np.nan], "note": ["", "far"]})
    save_predictions(run, rows)
    read = load_predictions(run)
    assert read is not None
    pd.testing.assert_frame_equal(read, rows, check_dtype=False)
    for change in ("mean = 0.25", "init = x'00'", "mean = 'text'"):
        query(run, f"UPDATE prediction SET {change} WHERE init = 'zeros'")
        with pytest.raises(StoreError, match="is damaged"):
            load_predictions(run)


# what no driver of ours wrote


def rewrite(folder: Path, **parts: object) -> None:
    """Give a run other settings, and a checksum that agrees."""
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection, connection:
        rows = dict(connection.execute("SELECT name, value FROM run"))
        rows |= {name: json.dumps(value) for name, value in parts.items()} | {"checksum": ""}
        rows["checksum"] = str(zlib.crc32(json.dumps(sorted(rows.items())).encode()))
        connection.executemany("INSERT OR REPLACE INTO run VALUES (?, ?)", rows.items())


def refused(folder: Path, reason: str) -> None:
    for use in (load_table, load_histograms, load_run, load_sessions, fill):
        with pytest.raises(StoreError, match=reason) as error:
            use(folder)
        assert "\n" not in str(error.value)


ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT "


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (["DELETE FROM run"], "is damaged"),
        (["DROP TABLE session"], "damaged .session is no table in it"),
        (["UPDATE run SET value = NULL WHERE name = 'config'"], "damaged .its settings are not"),
        (["UPDATE run SET value = '[]' WHERE name = 'keys'"], "damaged .its settings are not"),
        (["ALTER TABLE measurement RENAME COLUMN mean TO m"], "measurement has other columns"),
        (
            [
                "DROP VIEW tidy",
                "DROP TABLE measurement",
                f"CREATE VIEW measurement AS {ENDLESS} 1 cell, x position, 1 place, 1 count, 1 "
                "mean, 1 std FROM n",
            ],
            "measurement is no table in it",
        ),
        (
            [
                "DROP TABLE run",
                f"CREATE VIEW run AS {ENDLESS} 'config' name, '{{}}' value FROM n",
            ],
            "run is no table in it",
        ),
        (
            [
                "DROP TABLE session",
                "CREATE TABLE session (id INTEGER PRIMARY KEY, started, seconds, cells, mark, "
                "environment AS (hex(zeroblob(400000000))))",
            ],
            "session has columns that are computed",
        ),
        (
            [f"CREATE TRIGGER t AFTER INSERT ON session BEGIN {ENDLESS} x FROM n; END"],
            "there is a trigger in it",
        ),
    ],
)
def test_a_file_that_no_driver_wrote(run: Path, statements: list[str], reason: str) -> None:
    query(run, *statements)
    refused(run, reason)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("config", 5),
        ("config", {"inits": "zeros", "seeds": [0]}),
        ("config", {"inits": [["zeros"]], "seeds": [0]}),
        ("config", {"inits": ["zeros"]}),
        ("settings", None),
        ("settings", {"dataset": 7}),
        ("keys", ["init"]),
        ("keys", {"init": "float"}),
        ("statistics", {"count": []}),
        ("bins", [[1.0]]),
        ("bins", [["a"], ["b"]]),
        ("parameters", {"init": 3}),
        ("definitions", {"init": {"zeros": "x"}}),
    ],
)
def test_settings_of_another_type(run: Path, part: str, value: object) -> None:
    rewrite(run, **{part: value})
    refused(run, "is damaged")


@pytest.mark.parametrize(
    "values",
    ["NULL, 1, 1, 1, 'x', '{}'", "'now', NULL, 1, 1, 'x', '{}'", "'today', 1, 1, 1, 'x', '[1'"],
)
def test_sessions_of_another_type(run: Path, values: str) -> None:
    query(run, f"INSERT INTO session VALUES (NULL, {values})")
    with pytest.raises(StoreError, match="is damaged"):
        load_sessions(run)
    assert len(load_table(run)) == len(RUN.cells) * len(PLACES)


def test_lists_whose_product_is_beyond_memory(run: Path) -> None:
    keys = {"init": "text", "seed": "integer"} | {f"k{n}": "integer" for n in range(6)}
    many = list(range(3000))
    config = RUN.config | {f"k{n}s": many for n in range(6)}
    statements = [f"ALTER TABLE cell ADD COLUMN k{n} INTEGER" for n in range(6)]
    query(run, *statements, "DELETE FROM cell", "DELETE FROM measurement")
    rewrite(run, keys=keys, config=config)
    assert len(load_table(run)) == len(load_histograms(run)) == 0
    assert load_run(run).count == 12 * 3000**6


def test_histograms_that_burst(run: Path) -> None:
    bomb = zlib.compress(bytes(1 << 25))
    with Store.open(run, replace(RUN, config=RUN.config | {"seeds": [9]}), {}) as store:
        store.add(("zeros", 9), PLACES, np.zeros((len(PLACES), 3)), bomb)
    began = time.perf_counter()
    with pytest.raises(StoreError, match="damaged .*histograms of another length"):
        load_histograms(run)
    assert time.perf_counter() - began < 5


# logs


def killed(folder: Path, cells: int) -> None:
    """Be a driver that dies after some cells."""
    Store.__exit__ = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    fill(folder, RUN, cells)


def begun(folder: Path, cells: int) -> Path:
    """The log of a driver that was killed after some cells."""
    for process in start(killed, (folder, cells)):
        process.join()
    return folder / "run.sqlite-wal"


def start(target: Callable[..., object], *calls: tuple[object, ...]) -> list[ForkProcess]:
    """Processes at work on some calls."""
    context = get_context("fork")
    processes = [context.Process(target=target, args=call) for call in calls]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads
        for process in processes:
            process.start()
    return processes


def test_the_log_of_a_killed_driver_is_its_own(whole: Path, tmp_path: Path) -> None:
    log = begun(tmp_path / "run", 5)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert log.stat().st_size > 0
    assert len(load_table(tmp_path / "run")) == 5 * len(PLACES)
    assert len(fill(tmp_path / "copy")) == 5
    assert judged(tmp_path / "copy", whole) == "same"
    # a copy of another day, with the log of the killed driver beside it
    before = {}
    for name, source in (("later", tmp_path / "copy"), ("other", whole)):
        shutil.copytree(source, tmp_path / name)
        begun_log = begun(tmp_path / f"{name} log", 5)
        shutil.copy(begun_log, tmp_path / name)
        before[name] = (tmp_path / name / "run.sqlite").read_bytes()
        for use in (load_table, fill):
            with pytest.raises(
                StoreError, match=r"run.sqlite-wal belongs to another state .* away"
            ):
                use(tmp_path / name)
            assert (tmp_path / name / "run.sqlite").read_bytes() == before[name]
        (tmp_path / name / "run.sqlite-wal").unlink()
        assert judged(tmp_path / name, whole) == "same"


def test_the_log_of_an_earlier_session_is_refused(whole: Path, tmp_path: Path) -> None:
    shutil.copy(begun(tmp_path, 5), old := tmp_path / "old")
    fill(tmp_path)
    shutil.copy(old, tmp_path / "run.sqlite-wal")
    for use in (load_table, fill):
        with pytest.raises(StoreError, match="run.sqlite-wal belongs to another state of the run"):
            use(tmp_path)
    (tmp_path / "run.sqlite-wal").unlink()
    assert judged(tmp_path, whole) == "same"


def test_the_journal_of_another_day_is_refused(run: Path, whole: Path) -> None:
    file = run / "run.sqlite"
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("UPDATE session SET cells = 7")
        connection.execute("UPDATE cell SET histogram = zeroblob(90000)")
        journal, torn = (run / "run.sqlite-journal").read_bytes(), file.read_bytes()
    file.write_bytes(torn)  # as a kill leaves them
    (run / "run.sqlite-journal").write_bytes(journal)
    assert judged(run, whole) == "same"
    Store.open(run, RUN, {}).close()  # other sessions
    Store.open(run, RUN, {}).close()
    (run / "run.sqlite-journal").write_bytes(journal)
    for use in (load_table, fill):
        with pytest.raises(StoreError, match="run.sqlite-journal belongs to another state"):
            use(run)


# locks


def contend(folder: Path, seconds: float, counts: object) -> None:
    """Take a lock as often as possible, and tell whether somebody else had it."""
    end, taken, overlaps = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        try:
            with held(folder):
                try:
                    (folder / "inside").mkdir()
                    taken += 1
                    (folder / "inside").rmdir()
                except FileExistsError:
                    overlaps += 1
        except sqlite3.OperationalError:
            pass
    counts.put((taken, overlaps))  # type: ignore[attr-defined]


@pytest.mark.parametrize("seconds", [1.0, pytest.param(60.0, marks=pytest.mark.faults)])
def test_a_lock_has_one_holder(tmp_path: Path, seconds: float, tell: Callable[..., None]) -> None:
    counts = get_context("fork").SimpleQueue()
    crowd = start(contend, *[(tmp_path, seconds, counts)] * 3)
    found = [counts.get() for _ in crowd]
    for process in crowd:
        process.join()
    times = sum(taken for taken, _ in found)
    assert times > 50
    assert sum(overlaps for _, overlaps in found) == 0
    tell("a lock that three want", [{}] * times, times)


def test_whoever_opened_the_lock_early_shares_it_with_nobody(tmp_path: Path) -> None:
    with held(tmp_path):
        early = sqlite3.connect(tmp_path / "run.lock", timeout=0, isolation_level=None)
    with closing(early):
        early.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="is in use by another run"):
            fill(tmp_path)
    assert len(fill(tmp_path)) == 0


def test_a_fork_does_not_free_its_parents_lock(tmp_path: Path) -> None:
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], 0).execute('BEGIN EXCLUSIVE')"
    ask = [sys.executable, "-c", code, str(tmp_path / "run.lock")]
    with held(tmp_path):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        assert b"locked" in subprocess.run(ask, check=False, capture_output=True).stderr
    assert subprocess.run(ask, check=False).returncode == 0


@pytest.mark.parametrize("kind", ["text", "link", "folder", "pipe"])
def test_another_programs_lock_is_left_alone(tmp_path: Path, kind: str) -> None:
    lock = tmp_path / "run.lock"
    if kind == "text":
        lock.write_text("pid 4711")
    elif kind == "link":
        lock.symlink_to("elsewhere")
    elif kind == "folder":
        lock.mkdir()
    else:
        os.mkfifo(lock)
    before = os.lstat(lock)
    with pytest.raises(
        StoreError, match=r"run.lock is in the place of a run's lock.* move it away"
    ):
        fill(tmp_path)
    assert os.lstat(lock) == before
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]


@pytest.mark.parametrize("change", ["deleted", "replaced"])
def test_a_run_that_goes_away_under_its_driver(whole: Path, tmp_path: Path, change: str) -> None:
    with Store.open(folder := tmp_path / "run", RUN, {}) as store:
        shutil.rmtree(folder)
        if change == "replaced":
            shutil.copytree(whole, folder)
        rows = np.zeros((len(PLACES), 3))
        with pytest.raises(StoreError, match="was moved, deleted or replaced while"):
            store.add(RUN.cells[0], PLACES, rows, pack(np.zeros((len(PLACES), 3), np.int64)))
    if change == "replaced":
        assert judged(folder, whole) == "same"
