"""The file of a run: its layout, what is wrong with one, and who may write to it."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from initstats.store.run import Key, Run

FILE, CONFIG, LOCK = "run.sqlite", "grid.toml", "run.lock"
VERSION = 3
"""The version of the layout and of what the columns mean; a file of another one is refused."""
_OURS = 0x6973_7461
"""SQLite's application id: a file without it is another program's."""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class StoreError(ValueError):
    """A run's folder that cannot be used as asked; what is in it stays as it is."""


def schema(run: Run) -> list[str]:
    """The statements that make the tables of a run; `add_statistics` completes them."""
    keys, places = (
        ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        for columns in (run.keys, run.places)
    )
    return [
        f"PRAGMA application_id = {_OURS}",
        f"PRAGMA user_version = {VERSION}",
        "CREATE TABLE run (name TEXT PRIMARY KEY, value TEXT)",
        "CREATE TABLE session (id INTEGER PRIMARY KEY, started TEXT, seconds REAL, cells INTEGER, "
        "environment TEXT)",
        f"CREATE TABLE cell (id INTEGER PRIMARY KEY, {keys}, histogram BLOB, "
        f"UNIQUE ({quoted(run.keys)}))",
        f"CREATE TABLE place (id INTEGER PRIMARY KEY, {places}, UNIQUE ({quoted(run.places)}))",
        "CREATE TABLE measurement (cell INTEGER, position INTEGER, place INTEGER, "
        "PRIMARY KEY (cell, position)) WITHOUT ROWID",
    ]


def add_statistics(connection: sqlite3.Connection, run: Run) -> None:
    """Give a file the columns of a run's statistics that it lacks, and a view that shows all."""
    there = {row[1] for row in connection.execute("PRAGMA table_info(measurement)")}
    if not (lacking := [name for name in run.statistics if name not in there]):
        return
    for name in lacking:
        # A column without a type keeps a float as it is: REAL would lose the sign of -0.0. A NaN
        # becomes NULL, which numpy reads as NaN again, as it does in rows older than the column.
        connection.execute(f'ALTER TABLE measurement ADD COLUMN "{name}"')
    shown = quoted([*run.keys, *run.places, *run.statistics])
    connection.execute("DROP VIEW IF EXISTS tidy")
    connection.execute(
        f"CREATE VIEW tidy AS SELECT {shown} FROM measurement "
        "JOIN cell ON cell.id = measurement.cell JOIN place ON place.id = measurement.place"
    )


def quoted(names: Iterable[str]) -> str:
    """The names of columns, as SQL lists them."""
    return ", ".join(f'"{name}"' for name in names)


def marks(columns: Collection[object]) -> str:
    """The marks in a statement for the values of some columns."""
    return ", ".join("?" * len(columns))


def found_run(connection: sqlite3.Connection, file: Path | str) -> Run | None:
    """The run that a file holds; None where a driver died as it began, or nobody began yet.

    Raises:
        StoreError: another program's file, or one of another version.
    """
    application, version, tables = (
        connection.execute(query).fetchone()[0]
        for query in (
            "PRAGMA application_id",
            "PRAGMA user_version",
            "SELECT count(*) FROM sqlite_master",
        )
    )
    if not (application or version or tables):
        return None
    if application != _OURS:
        raise StoreError(f"{file} is not a run of initstats: choose another folder")
    if version != VERSION:
        raise StoreError(
            f"{file} was written by another version of initstats (its format is {version}, this "
            f"one reads {VERSION}): use that version, or choose another folder"
        )
    try:
        parts = connection.execute("SELECT name, value FROM run")
        return Run(**{name: json.loads(value) for name, value in parts})
    except (TypeError, ValueError) as error:
        raise damaged(file, error) from error


def numbered(connection: sqlite3.Connection, table: str, columns: Iterable[str]) -> dict[Key, int]:
    """The rows of `cell` or `place` in the order of their numbers, and the number of each."""
    rows = connection.execute(f"SELECT id, {quoted(columns)} FROM {table} ORDER BY id")
    return {tuple(key): number for number, *key in rows}


def write_ahead(connection: sqlite3.Connection) -> None:
    """Keep a write-ahead log, so that readers never wait; network disks cannot have one."""
    with suppress(sqlite3.OperationalError):
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal":
            # with this log, only a power cut can cost a commit, and only the last ones
            connection.execute("PRAGMA synchronous = NORMAL")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; it is free again when its holder dies."""
    file = folder / LOCK
    file.touch()
    with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as lock:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode not in _BUSY:
                file.unlink()
            raise
        try:
            yield
        finally:
            with suppress(OSError):
                file.unlink()  # while it is still held: who comes next makes a lock of its own


@contextmanager
def complaints(file: Path | str) -> Iterator[None]:
    """Say in a line what is the matter with a file, instead of what SQLite or the system say."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _DAMAGED:
            raise damaged(file, error) from error
        if code in _BUSY:
            raise StoreError(
                f"{file} is in use by another run: wait for it, or choose another folder"
            ) from error
        raise StoreError(
            f"cannot use {file}: {error}; what was committed is safe: mend this and run the same "
            "again, or choose another folder"
        ) from error
    except zlib.error as error:
        raise damaged(file, error) from error
    except OSError as error:
        raise StoreError(
            f"cannot use {file}: {error.strerror or error}: choose another folder"
        ) from error


def damaged(file: Path | str, error: object) -> StoreError:
    """The error for a file that holds something else than was written."""
    return StoreError(
        f"{file} is damaged ({error}) and was left as it is: move it away, or choose another folder"
    )
