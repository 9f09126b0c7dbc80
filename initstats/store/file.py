"""The file of a run: its layout, and whether a file has it."""

from __future__ import annotations

import json
import sqlite3
import time
import zlib
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import fields
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

from initstats.store.errors import DamageError, StoreError, as_written
from initstats.store.run import Run

FILE = "run.sqlite"
CONFIG, OWN_CONFIG = "grid.toml", "run.toml"
"""The configuration of a run: the second is for folders where the first is the user's own."""
VERSION, READABLE = 5, (4, 5)
"""The version of the layout and of what the columns mean, and those that are not refused."""
_OURS = 0x6973_7461
"""SQLite's application id: a file without it is another program's."""
_TABLES = ("run", "session", "cell", "place", "measurement")
MEASUREMENTS = (
    "CREATE TABLE measurement (cell INTEGER, position INTEGER, place INTEGER, "
    "PRIMARY KEY (cell, position)) WITHOUT ROWID"
)
"""The statement that makes the table of rows, before `add_statistics`."""
PREDICTION, PREDICTION_CHECKSUM = "prediction", "prediction_checksum"
_CHECKSUM = "checksum"
"""The name of the row of `run` that tells whether the others are as they were written."""


def schema(run: Run) -> list[str]:
    """The statements that make the tables of a run; `add_statistics` completes them."""
    keys, places = (
        ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        for columns in (run.keys, run.places)
    )
    return [
        f"PRAGMA application_id = {_OURS}",
        "CREATE TABLE run (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID",
        "CREATE TABLE session (id INTEGER PRIMARY KEY, started TEXT, seconds REAL, cells INTEGER, "
        "writes INTEGER, mark TEXT, environment TEXT)",
        f"CREATE TABLE cell (id INTEGER PRIMARY KEY, {keys}, checksum INTEGER, histogram BLOB)",
        f"CREATE TABLE place (id INTEGER PRIMARY KEY, {places})",
        MEASUREMENTS,
        *indexes(run),
    ]


def indexes(run: Run) -> list[str]:
    """The statements that make the indexes of a run, by which no cell or place is there twice."""
    return [
        f"CREATE UNIQUE INDEX cells ON cell ({quoted(run.keys)})",
        f"CREATE UNIQUE INDEX places ON place ({quoted(run.places)})",
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


def write_run(connection: sqlite3.Connection, run: Run) -> None:
    """Write down what the cells of a run have in common."""
    parts = {field.name: json.dumps(getattr(run, field.name)) for field in fields(Run)}
    rows = (parts | {_CHECKSUM: str(_digest(parts))}).items()
    connection.execute(f"PRAGMA user_version = {VERSION}")  # that of the cells to come
    connection.executemany("INSERT OR REPLACE INTO run VALUES (?, ?)", rows)


def is_begun(connection: sqlite3.Connection, file: Path | str) -> bool:
    """Whether there is a run in a file; not where a driver died as it began, or nobody began yet.

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
        return False
    if application != _OURS:
        raise StoreError(f"{file} is not a run of initstats: choose another folder")
    if version not in READABLE:
        raise StoreError(
            f"{file} was written by another version of initstats (its format is {version}, this "
            f"one reads {VERSION}): use that version, or choose another folder"
        )
    return True


def refuse_foreign(file: Path) -> None:
    """Make sure that a file is no other program's; it may be half written, as its log knows.

    Raises:
        StoreError: it is, or of another version.
    """
    uri = unlogged(file)
    with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(uri, uri=True)) as connection:
        is_begun(connection, file)


def refuse_other_settings(file: Path | str, there: Run, asked: Run) -> None:
    """Make sure that a run has the settings that are asked for.

    Raises:
        StoreError: it has others.
    """
    if [*there.keys] != [*asked.keys]:
        raise StoreError(f"{file} holds a run of another kind: choose another folder")
    if different := there.differences(asked):
        raise StoreError(
            f"{file} holds a run with other settings ({'; '.join(different)}): ask for "
            "the same ones, as the TOML file beside it has them, or choose another folder"
        )


def found_run(connection: sqlite3.Connection, file: Path | str) -> Run | None:
    """The run that a file holds; None where it is not begun.

    Raises:
        StoreError: another program's file, or one of another version.
        DamageError: it holds something else than was written.
    """
    connection.execute("PRAGMA trusted_schema = OFF")
    # a text that is damaged is another text, not an error
    connection.text_factory = lambda text: text.decode(errors="backslashreplace")
    if not is_begun(connection, file):
        return None
    _check_pages(connection, file)
    _check_tables(connection)
    with as_written():
        parts = dict(connection.execute("SELECT name, value FROM run"))
        if str(_digest(parts)) != parts.pop(_CHECKSUM):
            raise DamageError("its settings are not those that were written")
        run = _reader().validate_python({name: json.loads(text) for name, text in parts.items()})
        _check_run(run)
    _check_columns(connection, run)
    return run


@cache
def _reader() -> TypeAdapter[Run]:
    return TypeAdapter(Run)


def _digest(parts: Mapping[str, str]) -> int:
    return zlib.crc32(json.dumps(sorted({**parts, _CHECKSUM: ""}.items())).encode())


_State = tuple[float, ...]
_SOUND: dict[Path, list[_State]] = {}
"""How files, with their logs, were when all their pages were found to be sound."""
_SETTLED = 2.0
"""Seconds after which a change of a file has another time than the one before."""


def _check_pages(connection: sqlite3.Connection, file: Path | str) -> None:
    """Make sure that all pages are sound; once, of a file that stays as it is."""
    path, states = Path(file).absolute(), [_state(Path(each)) for each in (file, f"{file}-wal")]
    if _SOUND.get(path) == states:
        return
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise DamageError(verdict.splitlines()[-1])
    if states[0] and time.time() - max(state[0] for state in states if state) > _SETTLED:
        _SOUND[path] = states


def _state(path: Path) -> _State:
    """What changes with a file's content: its time, size and place; empty without one."""
    if not path.exists():
        return ()
    found = path.stat()
    return found.st_mtime, found.st_size, found.st_ino


def _check_tables(connection: sqlite3.Connection) -> None:
    """Make sure that tables are tables: a view, or a trigger, may have no end."""
    entries = connection.execute("SELECT lower(name), type, rootpage FROM sqlite_master").fetchall()
    tables = {name for name, kind, page in entries if kind == "table" and page}
    others = {name for name, *_ in entries} & {PREDICTION, PREDICTION_CHECKSUM}
    for name in (*_TABLES, *others):
        if name not in tables:
            raise DamageError(f"{name} is no table in it")
        if any(hidden for *_, hidden in connection.execute(f"PRAGMA table_xinfo({name})")):
            raise DamageError(f"table {name} has columns that are computed")
    if "trigger" in {kind for _, kind, _ in entries}:
        raise DamageError("there is a trigger in it")


def _check_columns(connection: sqlite3.Connection, run: Run) -> None:
    """Make sure that a name in a query is one of a column, for SQLite takes others for text."""
    expected = {
        "session": ["id", "started", "seconds", "cells", "writes", "mark", "environment"],
        "cell": ["id", *run.keys, "checksum", "histogram"],
        "place": ["id", *run.places],
        "measurement": ["cell", "position", "place", *run.statistics],
    }
    for table, names in expected.items():
        found = connection.execute(f"PRAGMA table_info({table})")
        if {name for _, name, *_ in found} != set(names):
            raise DamageError(f"table {table} has other columns than were made")


def _check_run(run: Run) -> None:
    """Make sure that a run has what is read of it; a DamageError where it has not."""
    kinds = {"text": str, "integer": int, "real": float}
    for name, kind in run.keys.items():
        values = run.config[f"{name}s"]
        if not isinstance(values, list) or {type(value) for value in values} - {kinds[kind]}:
            raise DamageError(f"{name}s: not a list of {kind}")
    if not isinstance(run.settings["dataset"], str):
        raise DamageError("the dataset has no name")


def unlogged(file: Path) -> str:
    """The address of a file as it is without its log, which stays as it is."""
    return f"{file.resolve().as_uri()}?immutable=1"


def write_ahead(connection: sqlite3.Connection) -> None:
    """Keep a write-ahead log, so that readers never wait; network disks cannot have one."""
    with suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA journal_mode = MEMORY")  # no other log while it changes
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal":
            # with this log, only a power cut can cost a commit, and only the last ones
            connection.execute("PRAGMA synchronous = NORMAL")
        else:
            connection.execute("PRAGMA journal_mode = DELETE")


def write_through(connection: sqlite3.Connection) -> None:
    """Make a file whole without its log: it can be copied, and read from a read-only disk."""
    with suppress(sqlite3.Error):  # a reader is at work
        connection.execute("PRAGMA journal_mode = MEMORY")
        connection.execute("PRAGMA journal_mode = DELETE")
