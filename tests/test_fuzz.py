"""Input of any kind: it is read, or a ValueError of one line says why not.

By default a few examples of each, always the same; `pytest -m fuzz` tries many new ones, and lets
coverage lead it to others for INITSTATS_FUZZ seconds each.
"""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import struct
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import closing, suppress
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import initstats as ist
from initstats import bench
from initstats.activations import ACTIVATIONS
from initstats.idx import read_idx
from initstats.inits import INITS
from initstats.networks import NETWORKS
from initstats.plots import Results
from initstats.registry import Catalog, split_names
from initstats.report.study import compose
from initstats.store import (
    load_failures,
    load_histograms,
    load_predictions,
    load_run,
    load_sessions,
    load_table,
    save_predictions,
)
from initstats.sweep import load_config

Strategy = st.SearchStrategy[Any]
CATALOGS: tuple[Catalog[Any], ...] = (ACTIVATIONS, INITS, NETWORKS)


def told(read: Callable[[], object]) -> None:
    """Read; whatever is wrong is told in one line."""
    message = "no error"
    try:
        read()
    except ValueError as error:
        message = str(error).strip()
    assert message
    assert "\n" not in message


def in_file(name: str, content: bytes, read: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / name).write_bytes(content)
        told(lambda: read(file))


SHORT = st.integers(0, 9)


def spoiled(draw: st.DrawFn, content: bytes) -> bytes:
    """Some bytes that are there, with others in place of a few, or without an end."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        content = (
            content[:at] + draw(st.binary(max_size=6)) + content[at + draw(st.integers(0, 9)) :]
        )
    return content[: draw(st.just(len(content)) | st.integers(0, len(content)))]


# IDX files

SIZES = st.one_of(st.integers(0, 5), st.integers(0, 2**32 - 1))


@st.composite
def idx_files(draw: st.DrawFn) -> bytes:
    """A header and some bytes, often as many as it promises; gzipped or not; spoiled or not."""
    magic = draw(st.sampled_from([2051, 2049, 0, 2**32 - 1]))
    shape = draw(st.lists(SIZES, min_size=0, max_size=4))
    body = draw(st.binary(max_size=200) | st.just(bytes(range(125))))
    content = struct.pack(f">{1 + len(shape)}I", magic, *shape) + body
    if draw(st.booleans()):
        content = gzip.compress(content, 1, mtime=0)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(content)))
        content = content[:at] + draw(st.binary(max_size=4)) + content[at + draw(SIZES) :]
    return content


def check_idx(content: bytes) -> None:
    for kind, dimensions in (("images", 3), ("labels", 1)):

        def read(file: Path, kind: str = kind, dimensions: int = dimensions) -> None:
            array = read_idx(file, kind)
            assert array.ndim == dimensions
            assert array.tobytes() in (content, *_unzipped(content))[-1]

        in_file("file", content, read)


def _unzipped(content: bytes) -> list[bytes]:
    return [gzip.decompress(content)] if content.startswith(b"\x1f\x8b") else []


# names

NUMBERS = st.one_of(
    st.sampled_from(
        ["0", "-1", "1e999", "nan", "1e-320", "1e7", "0:1:5", "1:9:3log", "::", "true"]
    ),
    st.floats().map(repr),
    st.integers().map(str),
    st.text(max_size=5),
)


@st.composite
def spellings(draw: st.DrawFn) -> str:
    """A name of a catalogue, maybe with parameters, or what only looks like one."""
    catalog = draw(st.sampled_from(CATALOGS))
    name = draw(st.sampled_from([*catalog]) | st.text(max_size=8))
    known = [*catalog.family(name).defaults] if name in catalog else []
    keys = st.sampled_from(known) if known else st.text(max_size=4)
    pairs = draw(st.lists(st.tuples(keys | st.text(max_size=3), NUMBERS), max_size=3))
    inside = ",".join(f"{key}={value}" for key, value in pairs)
    return f"{name}({inside})" if pairs else name


def check_name(text: str) -> None:
    told(lambda: split_names(text))
    for catalog in CATALOGS:

        def read(catalog: Any = catalog) -> None:
            for name in catalog.expand(text):
                entry = catalog[name]
                assert catalog[entry.name] is entry

        told(read)


# configurations

FIELDS = [*ist.Grid.model_fields, "network", "data", "size", "plugins", "strange"]
PLAIN = st.one_of(
    st.booleans(), st.integers(-(2**64), 2**64), st.floats(), spellings(), st.text(max_size=9),
    st.datetimes(), st.dates(), st.times(),
)  # fmt: skip
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
TABLES = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4)
GRID_TOML = ist.Grid(inits=["matched"], activations=["relu", "tanh"], seeds=2).to_toml()


@st.composite
def spoiled_toml(draw: st.DrawFn) -> bytes:
    return spoiled(draw, GRID_TOML.encode())


def check_config(content: bytes) -> None:
    def read(file: Path) -> None:
        load_config(file)
        grid = ist.Grid.from_toml(file)
        file.write_text(grid.to_toml())
        assert ist.Grid.from_toml(file) == grid

    in_file("grid.toml", content, read)


# tables

CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5)
)
COLUMNS = st.lists(CELLS, min_size=3, max_size=3)


@st.composite
def spoiled_tables(draw: st.DrawFn) -> pd.DataFrame:
    """A sweep's table with columns of other values, of other types, or without some."""
    table = kept().table.copy()
    for name in draw(st.lists(st.sampled_from([*table.columns]), max_size=3, unique=True)):
        if draw(st.booleans()):
            table[name] = pd.Series((draw(COLUMNS) * len(table))[: len(table)], table.index, object)
        else:
            table = table.drop(columns=name)
    return table.iloc[draw(st.integers(0, 3)) :: draw(st.integers(1, 5))]


@st.composite
def spoiled_csv(draw: st.DrawFn) -> bytes:
    return spoiled(draw, kept().table.to_csv(index=False).encode())


def check_table(table: pd.DataFrame) -> None:
    told(lambda: ist.summarize(table))
    told(lambda: compose(Results.of(table)))


def check_csv(content: bytes) -> None:
    with suppress(ValueError, MemoryError):  # of pandas
        check_table(pd.read_csv(BytesIO(content), nrows=99))


# runs


class Kept(NamedTuple):
    """A run, as a file and as its rows."""

    file: bytes
    table: pd.DataFrame
    rows: dict[Load, set[str]]


Load = Callable[[Path], pd.DataFrame]
SAFE: tuple[Load, ...] = (load_table, load_histograms)
"""What gives only what was written; the other readers of a run just end in a line."""
OTHERS = (load_run, load_sessions, load_failures, load_predictions)


@cache
def kept() -> Kept:
    with tempfile.TemporaryDirectory() as place:
        table = swept(folder := Path(place))
        save_predictions(folder, table.iloc[:3][["init", "activation", "layer", "mean"]])
        rows = {load: lines(load(folder)) for load in SAFE}
        return Kept((folder / "run.sqlite").read_bytes(), table, rows)


def swept(folder: Path) -> pd.DataFrame:
    """The table of a small study, kept in a folder."""
    generator = np.random.default_rng(3)
    images = (generator.random((40, 3), np.float32), [0] * 40)
    grid = ist.Grid(inits=["matched"], activations=["relu", "tanh"], widths=[4], depth=2, seeds=2)
    return ist.run_sweep(grid, ist.Dataset.from_arrays(images, images), out=folder)


def lines(table: pd.DataFrame) -> set[str]:
    return {*table.to_csv(index=False).splitlines()}


TABLES_OF_A_RUN = {
    "run": ["name", "value"],
    "session": ["id", "started", "seconds", "cells", "writes", "mark", "environment"],
    "cell": ["id", "network", "init", "activation", "width", "seed", "checksum", "histogram"],
    "place": ["id", "layer", "tensor", "direction"],
    "measurement": ["cell", "position", "place", "count", "mean", "std", "q50"],
    "prediction": ["init", "layer", "mean"],
    "prediction_checksum": ["value"],
    "sqlite_master": ["type", "name", "tbl_name", "rootpage", "sql"],
}
SQL_VALUES = st.sampled_from(
    ["NULL", "'x'", "''", "x''", "x'ff'", "zeroblob(99)"]
) | st.sampled_from(
    ["0", "1", "-1", "2", "9223372036854775807", "1e999", "'[]'", "'{}'", "'null'", "'[[1]]'"]
)


@st.composite
def statements(draw: st.DrawFn) -> str:
    """A change to a run's file by SQL."""
    table = draw(st.sampled_from([*TABLES_OF_A_RUN]))
    columns = TABLES_OF_A_RUN[table]
    column, value, place = draw(st.sampled_from(columns)), draw(SQL_VALUES), draw(st.integers(1, 5))
    row = f"SELECT {columns[0]} FROM {table} LIMIT 1 OFFSET {place}"
    where = draw(st.sampled_from(["1", f"{columns[0]} = ({row})", f"{columns[0]} = {place}"]))
    listed = ", ".join(value if name == column else f'"{name}"' for name in columns)
    return draw(
        st.sampled_from(
            [
                f'UPDATE {table} SET "{column}" = {value} WHERE {where}',
                f'UPDATE {table} SET "{column}" = (SELECT "{column}" FROM {table}) WHERE {where}',
                f"DELETE FROM {table} WHERE {where}",
                f"INSERT INTO {table} ({', '.join(columns)}) SELECT {listed} FROM {table}",
                f"DROP TABLE {table}",
                f"DROP INDEX {draw(st.sampled_from(['cells', 'places']))}",
                "DROP VIEW tidy",
                f'ALTER TABLE {table} RENAME COLUMN "{column}" TO x',
                f'ALTER TABLE {table} DROP COLUMN "{column}"',
                f"ALTER TABLE {table} ADD COLUMN x DEFAULT {value}",
                f"ALTER TABLE {table} RENAME TO x",
                f"CREATE VIEW {table} AS SELECT 1 FROM run",
                f"CREATE VIEW x AS SELECT * FROM {table}, {table}",
                f"CREATE TABLE failure (x DEFAULT {value})",
                f"CREATE TRIGGER x AFTER INSERT ON {table} BEGIN DELETE FROM cell; END",
                f"PRAGMA user_version = {place}",
                f"PRAGMA application_id = {place}",
                "PRAGMA journal_mode = WAL",
                "VACUUM",
            ]
        )
    )


@st.composite
def spoiled_runs(draw: st.DrawFn) -> bytes:
    return spoiled(draw, kept().file)


def check_statements(changes: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / "run.sqlite").write_bytes(kept().file)
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            for change in changes:
                with suppress(sqlite3.Error):
                    connection.execute(change)
        check_run(Path(folder))


def check_file(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "run.sqlite").write_bytes(content)
        check_run(Path(folder))


def check_run(folder: Path) -> None:
    """Whatever is read of a run was written, and whoever goes on with it ends where it ended."""

    def read(load: Load) -> None:
        assert lines(load(folder)) <= kept().rows[load]

    for load in SAFE:
        told(partial(read, load))
    for other in OTHERS:
        told(partial(other, folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cells are measured again
        told(partial(go_on, folder))


def go_on(folder: Path) -> None:
    swept(folder)
    for load in SAFE:
        assert lines(load(folder)) == kept().rows[load]


RESULTS = st.dictionaries(
    st.sampled_from(["ratios", "timings", "memory", "machine", "engine"]),
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=5,
    ),
)


PROPERTIES: dict[str, tuple[Strategy, Callable[[Any], None]]] = {
    "idx": (idx_files() | st.binary(max_size=60), check_idx),
    "name": (spellings() | st.text(), check_name),
    "configuration": (TABLES.map(lambda table: tomli_w.dumps(table).encode()), check_config),
    "spoiled configuration": (spoiled_toml() | st.binary(max_size=60), check_config),
    "table": (spoiled_tables(), check_table),
    "CSV table": (spoiled_csv(), check_csv),
    "run": (st.lists(statements(), min_size=1, max_size=3), check_statements),
    "file of a run": (spoiled_runs() | st.binary(max_size=60), check_file),
    "benchmark": (
        RESULTS.map(json.dumps) | st.text(),
        lambda text: told(lambda: bench.from_json(text)),
    ),
}


SLOW = {"table": 12, "CSV table": 12, "run": 4, "file of a run": 4}
"""What takes its time is tried so many times less often."""


@pytest.mark.sampled(every=6)
@pytest.mark.parametrize("name", PROPERTIES)
@pytest.mark.parametrize(
    "examples", [60, pytest.param(50_000, marks=pytest.mark.fuzz)], ids=["short", "long"]
)
def test_what_cannot_be_read_is_told_in_a_line(name: str, examples: int) -> None:
    strategy, check = PROPERTIES[name]
    budget = settings(
        max_examples=examples // SLOW.get(name, 1),
        derandomize=examples < 1000,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    budget(given(strategy)(check))()


@pytest.mark.fuzz
@pytest.mark.parametrize("name", PROPERTIES)
def test_what_coverage_leads_to_is_told_in_a_line(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    seconds = os.environ.get("INITSTATS_FUZZ", "60")
    command = [sys.executable, str(Path(__file__).with_name("guided.py")), name]
    subprocess.run([*command, f"-max_total_time={seconds}"], check=True, cwd=tmp_path)
