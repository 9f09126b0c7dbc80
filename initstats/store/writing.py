"""The driver's side of a run's file: the only writer."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self
from warnings import warn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from initstats.failure import Failure
from initstats.plural import counted
from initstats.store import failures
from initstats.store import file as layout
from initstats.store.cells import Cell, cells, checksum, digest, places_of
from initstats.store.errors import DamagedCellsError, StoreError, complaints
from initstats.store.file import marks, quoted
from initstats.store.lock import held
from initstats.store.log import keep_mark, last_mark, strange_log, strangeness
from initstats.store.mounts import network_file_system
from initstats.store.reading import table
from initstats.store.run import Key, Run, to_toml

Result = tuple[Key, Sequence[Key], NDArray[np.float64], bytes]
"""A cell's key, the places of its rows, their statistics, and their packed histograms."""


class Store:
    """A driver's hold on a run, made by `Store.open`; a context manager.

    Attributes:
        run: the run as its folder has it, with what was asked added.
    """

    def __init__(
        self, run: Run, file: Path | str, connection: sqlite3.Connection, config: Sequence[str]
    ) -> None:
        self.run, self._asked, self._config = run, run, config
        self._file, self._connection = file, connection
        self._resources = ExitStack()
        self._began = time.monotonic()
        self._lasting = Path(file).absolute()  # a cell may change the working directory
        self._identity = _identity(self._lasting)
        self._numbers: dict[Key, int] = {}

    @classmethod
    def open(
        cls,
        folder: str | Path | None,
        run: Run,
        environment: Mapping[str, object],
        config: Sequence[str] = (layout.CONFIG, layout.OWN_CONFIG),
    ) -> Self:
        """Begin a run in a folder, or go on with the one that is there; None keeps it in memory.

        Args:
            folder: made where it is missing.
            run: what is asked for. The lists of a run that is there are extended by it.
            environment: what is worth knowing of this driver: versions, the machine.
            config: names of files for the configuration of the run, the first one that is no one
                else's; none keep it in the store alone.

        Raises:
            StoreError: the folder cannot be written; another driver is at work in it; what is
                there is not a run, is damaged, of another version, or has other settings.
        """
        file = ":memory:" if folder is None else Path(folder) / layout.FILE
        with ExitStack() as resources, complaints(file):
            if isinstance(file, Path):
                if file.parent.is_file():
                    raise StoreError(f"{folder} is a file: name a folder for the run")
                file.parent.mkdir(parents=True, exist_ok=True)
                if file.exists():
                    layout.refuse_foreign(file)  # before anything of ours is there
                resources.enter_context(held(file.parent))
                if log := strange_log(file):
                    raise strangeness(log)
            connection = sqlite3.connect(file, isolation_level=None)
            store = cls(run, file, resources.enter_context(closing(connection)), config)
            store._begin(environment)
            store._resources = resources.pop_all()
        return store

    def done(self) -> set[Key]:
        """The cells that are committed."""
        with complaints(self._file):
            rows = self._connection.execute(f"SELECT {quoted(self.run.keys)} FROM cell")
            same: dict[object, Any] = {}  # SQLite gives each row names of its own
            return {tuple([same.setdefault(value, value) for value in row]) for row in rows}

    def add(
        self, cell: Key, places: Sequence[Key], statistics: NDArray[np.float64], histograms: bytes
    ) -> None:
        """Commit a cell; see `add_all`.

        Args:
            cell: its key; not yet committed.
            places: one for each of its rows, all different.
            statistics: (rows, statistics), in the order of those that were asked for.
            histograms: (rows, bins), packed.
        """
        self.add_all([(cell, places, statistics, histograms)])

    def add_all(self, results: Sequence[Result]) -> None:
        """Commit cells that are there at the same time: all of them, or nothing.

        Args:
            results: the arguments of `add`, for each cell.

        Raises:
            StoreError: as on a disk that is full or has become read-only.
        """
        with self._transaction():
            for result in results:
                self._insert(*result)
            self._connection.execute(
                "UPDATE session SET cells = cells + ?, seconds = ? "
                "WHERE id = (SELECT max(id) FROM session)",
                (len(results), time.monotonic() - self._began),
            )
            failures.forget(self._connection, self.run, [cell for cell, *_ in results])

    def _insert(
        self, cell: Key, places: Sequence[Key], statistics: NDArray[np.float64], histograms: bytes
    ) -> None:
        """Write a cell within a transaction; its numbers are those of `add`."""
        columns = self._asked.statistics
        if statistics.shape != (len(places), len(columns)):
            raise ValueError(
                f"statistics of shape {statistics.shape} were given for {len(places)} places and "
                f"{len(columns)} columns"
            )
        rows = statistics.tolist()
        for position in [n for n, integer in enumerate(columns.values()) if integer]:
            for row in rows:
                row[position] = int(row[position])
        check = checksum(cell, digest(tuple(places)), [*columns], statistics, histograms)
        numbers, (into_cell, into_measurement) = self._numbers_of(places), self._statements
        number = self._connection.execute(into_cell, (*cell, check, histograms)).lastrowid
        self._connection.executemany(
            into_measurement,
            [
                (number, position, place, *row)
                for position, (place, row) in enumerate(zip(numbers, rows, strict=True))
            ],
        )

    def _numbers_of(self, places: Sequence[Key]) -> list[int]:
        """The ids of places; new ones are written down within the transaction."""
        if not self._numbers.keys() >= set(places):
            where = self.run.places
            self._connection.executemany(
                f"INSERT OR IGNORE INTO place ({quoted(where)}) VALUES ({marks(where)})", places
            )
            there = places_of(self._connection, self.run)
            self._numbers = {place: number for number, place in there.items()}
        return [self._numbers[place] for place in places]

    @cached_property
    def _statements(self) -> tuple[str, str]:
        """The statements that write a cell, and one of its rows."""
        keys = [*self.run.keys, "checksum", "histogram"]
        columns = ["cell", "position", "place", *self._asked.statistics]
        return (
            f"INSERT INTO cell ({quoted(keys)}) VALUES ({marks(keys)})",
            f"INSERT INTO measurement ({quoted(columns)}) VALUES ({marks(columns)})",
        )

    def fail(self, cell: Key, failure: Failure) -> None:
        """Write down that a cell cannot be measured, and why; a StoreError as for `add`."""
        with self._transaction():
            failures.record(self._connection, self.run, cell, failure)

    def failures(self, run: Run) -> pd.DataFrame:
        """The failures among the cells that a run lists; see `load_failures`."""
        with complaints(self._file):
            return failures.failures(self._connection, run)

    def table(self, run: Run) -> pd.DataFrame:
        """The rows of the committed cells that a run lists, in its order."""
        with complaints(self._file):
            return table(self._connection, self.run, run)

    def close(self) -> None:
        """Let go of the folder; what was committed stays."""
        layout.write_through(self._connection)
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, environment: Mapping[str, object]) -> None:
        """Go on with a run that is there, and write down that a driver is at work.

        Writing also shows that writing is possible.
        """
        there = layout.found_run(self._connection, self._file)
        if there:
            self._check(there)
            self._mend(there)
            self._tell_gaps(there)
            self.run = there.extended(self.run)
        layout.write_through(self._connection)  # what a killed driver left
        with self._transaction():
            for statement in () if there else layout.schema(self.run):
                self._connection.execute(statement)
            layout.add_statistics(self._connection, self.run)
            layout.write_run(self._connection, self.run)
            self._connection.execute(
                "INSERT INTO session VALUES (NULL, ?, 0, 0, 0, ?, ?)",
                (
                    datetime.now(UTC).isoformat(timespec="seconds"),
                    str(last_mark(self._connection).next()),
                    json.dumps(environment),
                ),
            )
        if not (isinstance(self._file, Path) and _is_remote(self._file.parent)):
            layout.write_ahead(self._connection)
        if isinstance(self._file, Path):
            _write_config(self._file.parent, self._config, self.run, there)

    def _mend(self, there: Run) -> None:
        """Take out the cells that are not as they were written: they will be measured again."""
        sound, damaged = list[int](), list[Cell]()
        for cell in cells(self._connection, there, there):
            if cell.sound:
                sound.append(cell.number)
            else:
                damaged.append(cell)
        if damaged:
            error = DamagedCellsError([cell.key for cell in damaged])
            warn(f"{self._file}: {error}, and will be measured again", stacklevel=6)
        elif self._connection.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok":
            return
        with self._transaction():
            execute = self._connection.execute
            for index in ("cells", "places"):
                execute(f"DROP INDEX IF EXISTS {index}")
            for cell in damaged:
                execute("DELETE FROM cell WHERE id = ?", (cell.number,))
            # rows out of order cannot be deleted, and so those that are found move to a new table
            execute("DROP VIEW IF EXISTS tidy")
            execute("ALTER TABLE measurement RENAME TO earlier")
            execute(layout.MEASUREMENTS)
            layout.add_statistics(self._connection, there)
            columns = quoted(["position", "place", *there.statistics])
            for number in sound:
                execute(
                    f"INSERT INTO measurement (cell, {columns}) SELECT {number}, {columns} "
                    "FROM earlier WHERE cell = ?",
                    (number,),
                )
            execute("DROP TABLE earlier")
            execute("DELETE FROM place WHERE id NOT IN (SELECT place FROM measurement)")
            for statement in layout.indexes(there):
                execute(statement)

    def _check(self, there: Run) -> None:
        """Refuse a run of other settings than was asked for."""
        layout.refuse_other_settings(self._file, there, self.run)
        if redefined := there.redefined(self.run.definitions, self.done()):
            raise StoreError(
                f"{self._file} was measured when {', '.join(redefined)} had another definition: "
                "choose another folder, or another name for what is new"
            )

    def _tell_gaps(self, there: Run) -> None:
        """Warn of statistics that the cells there lack, or those that will be measured now."""
        for more, fewer, when in ((self.run, there, "before"), (there, self.run, "now")):
            # what the blocks of other networks note is not lacking
            own = [name for name in more.statistics if name not in more.notes]
            lacking = [name for name in own if name not in fewer.statistics]
            if not lacking:
                continue
            done = self.done()
            count = len(done) if fewer is there else len(set(self.run.cells) - done)
            if count:
                warn(
                    f"{self._file}: {', '.join(lacking)} will be NaN in {counted(count, 'cell')}, "
                    f"measured {when} without it",
                    stacklevel=6,
                )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if _identity(self._lasting) != self._identity:
            raise StoreError(
                f"{self._file} was moved, deleted or replaced while this run was at work: start "
                "it again"
            )
        with complaints(self._file):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                keep_mark(self._connection)
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._numbers = {}  # some may not be there any more
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise


def _is_remote(folder: Path) -> bool:
    """Whether a folder lies on a network's disk, which is not for a run; a warning where it is."""
    if kind := network_file_system(folder):
        warn(
            f"{folder} is on a network file system ({kind}), where a run is slow and its file at "
            "risk: keep it on a local disk, and copy it when it is done",
            stacklevel=7,
        )
    return bool(kind)


def _identity(file: Path) -> tuple[int, int] | None:
    """Which file lies at a path; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _write_config(folder: Path, names: Sequence[str], run: Run, earlier: Run | None) -> None:
    """Write the configuration of a run, beside one that is the user's own.

    Args:
        earlier: the run as it was: a file that says just that is ours.
    """
    text, before = to_toml(run.config), to_toml(earlier.config) if earlier else ""
    for file in (folder / name for name in names):
        if not os.path.lexists(file) or _is_text(file, {text, before}):
            _write_whole(file, text)
            return
    if names:
        warn(
            f"{folder / names[0]} and {', '.join(names[1:])} are not of this run and stay as they "
            "are: the page of the run tells its configuration",
            stacklevel=6,
        )


def _is_text(file: Path, texts: Collection[str]) -> bool:
    """Whether a file, and no link to one, holds one of some texts."""
    try:
        if file.is_symlink() or not file.is_file():  # a pipe would wait for ever
            return False
        with file.open(encoding="utf-8") as stream:
            return stream.read(max(map(len, texts)) + 1) in texts
    except (OSError, UnicodeDecodeError):
        return False


def _write_whole(file: Path, text: str) -> None:
    """Write a file whole or not at all; only the holder of the folder's lock may."""
    fresh = file.with_name(f".{file.name}.draft")
    fresh.unlink(missing_ok=True)  # a dead driver's
    try:
        with fresh.open("x", encoding="utf-8") as stream:
            stream.write(text)
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)
