"""The cells of a run that could not be measured, and why: a table of its own in the run's file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from initstats.failure import Failure
from initstats.store.file import marks, quoted
from initstats.store.reading import reading
from initstats.store.run import Key, Run

_TABLE = "failure"
_COLUMNS = ("error", "traceback")


def load_failures(folder: str | Path) -> pd.DataFrame:
    """The cells of a run that were tried and not measured; asking for them again tries them again.

    Returns:
        One row each: the cell's key columns, its `error` in a line, and the `traceback` of the
        user's own code; empty where the error was not there.

    Raises:
        StoreError: as `load_table`.
    """
    with reading(folder) as (connection, run):
        return failures(connection, run)


def failures(connection: sqlite3.Connection, run: Run) -> pd.DataFrame:
    """Those cells among the ones that a run lists, in its order."""
    columns = [*run.keys, *_COLUMNS]
    rows: list[tuple[Any, ...]] = []
    if _is_there(connection):
        rows = connection.execute(f"SELECT {quoted(columns)} FROM {_TABLE}").fetchall()
    order = {cell: place for place, cell in enumerate(run.cells)} if rows else {}
    known = [row for row in rows if row[: len(run.keys)] in order]
    known.sort(key=lambda row: order[row[: len(run.keys)]])
    return pd.DataFrame(known, columns=columns)


def record(connection: sqlite3.Connection, run: Run, cell: Key, failure: Failure) -> None:
    """Write down a failure, in place of an earlier one of the same cell."""
    keys = ", ".join(f'"{name}" {kind}' for name, kind in run.keys.items())
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {_TABLE} ({keys}, error TEXT, traceback TEXT, "
        f"UNIQUE ({quoted(run.keys)}))"
    )
    values = (*cell, failure.error, failure.traceback)
    connection.execute(
        f"INSERT OR REPLACE INTO {_TABLE} ({quoted([*run.keys, *_COLUMNS])}) "
        f"VALUES ({marks(values)})",
        values,
    )


def forget(connection: sqlite3.Connection, run: Run, cells: Iterable[Key]) -> None:
    """Strike out the failures of some cells, if they had any: they are measured."""
    if _is_there(connection):
        connection.executemany(
            f"DELETE FROM {_TABLE} WHERE ({quoted(run.keys)}) = ({marks(run.keys)})", cells
        )


def _is_there(connection: sqlite3.Connection) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return connection.execute(query, (_TABLE,)).fetchone() is not None
