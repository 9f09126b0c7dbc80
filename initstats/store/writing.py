"""The driver's side of a run's file: the only writer."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Self
from warnings import warn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from initstats.failure import Failure
from initstats.store import failures
from initstats.store import file as layout
from initstats.store.file import StoreError, complaints, marks, quoted
from initstats.store.reading import table
from initstats.store.run import Key, Run, to_toml


class Store:
    """A driver's hold on a run, made by `Store.open`; a context manager.

    Attributes:
        run: the run as its folder has it, with what was asked added.
    """

    def __init__(self, run: Run, file: Path | str, connection: sqlite3.Connection) -> None:
        self.run, self._asked = run, run
        self._file, self._connection = file, connection
        self._resources = ExitStack()
        self._began = time.monotonic()

    @classmethod
    def open(cls, folder: str | Path | None, run: Run, environment: Mapping[str, object]) -> Self:
        """Begin a run in a folder, or go on with the one that is there; None keeps it in memory.

        Args:
            folder: made where it is missing.
            run: what is asked for. The lists of a run that is there are extended by it.
            environment: what is worth knowing of this driver: versions, the machine.

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
                resources.enter_context(layout.held(file.parent))
            connection = sqlite3.connect(file, isolation_level=None)
            store = cls(run, file, resources.enter_context(closing(connection)))
            store._begin(environment)
            store._resources = resources.pop_all()
        return store

    def done(self) -> set[Key]:
        """The cells that are committed."""
        return set(layout.numbered(self._connection, "cell", self.run.keys))

    def add(
        self, cell: Key, places: Sequence[Key], statistics: NDArray[np.float64], histograms: bytes
    ) -> None:
        """Commit a cell: all of it, or nothing.

        Args:
            cell: its key; not yet committed.
            places: one for each of its rows, all different.
            statistics: (rows, statistics), in the order of those that were asked for.
            histograms: (rows, bins), packed.

        Raises:
            StoreError: as on a disk that is full or has become read-only.
        """
        keys, where, columns = self.run.keys, self.run.places, self._asked.statistics
        kinds = [int if integer else float for integer in columns.values()]
        rows = [
            (position, *at, *(kind(x) for kind, x in zip(kinds, row, strict=True)))
            for position, (at, row) in enumerate(zip(places, statistics.tolist(), strict=True))
        ]
        place = f"(SELECT id FROM place WHERE ({quoted(where)}) = ({marks(where)}))"
        execute, execute_many = self._connection.execute, self._connection.executemany
        with self._transaction():
            number = execute(
                f"INSERT INTO cell ({quoted(keys)}, histogram) VALUES ({marks(keys)}, ?)",
                (*cell, histograms),
            ).lastrowid
            execute_many(f"INSERT OR IGNORE INTO place VALUES (NULL, {marks(where)})", places)
            execute_many(
                f"INSERT INTO measurement (cell, position, place, {quoted(columns)}) "
                f"VALUES ({number}, ?, {place}, {marks(columns)})",
                rows,
            )
            execute(
                "UPDATE session SET cells = cells + 1, seconds = ? "
                "WHERE id = (SELECT max(id) FROM session)",
                (time.monotonic() - self._began,),
            )
            failures.forget(self._connection, self.run, cell)

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
            return table(self._connection, run)

    def close(self) -> None:
        """Let go of the folder; what was committed stays."""
        with suppress(sqlite3.Error):
            # one plain file again, that can be copied, and read from a read-only disk
            self._connection.execute("PRAGMA journal_mode = DELETE")
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
            self._tell_gaps(there)
            self.run = there.extended(self.run)
        layout.write_ahead(self._connection)
        with self._transaction():
            for statement in () if there else layout.schema(self.run):
                self._connection.execute(statement)
            layout.add_statistics(self._connection, self.run)
            self._connection.executemany(
                "INSERT OR REPLACE INTO run VALUES (?, ?)",
                ((field.name, json.dumps(getattr(self.run, field.name))) for field in fields(Run)),
            )
            self._connection.execute(
                "INSERT INTO session VALUES (NULL, ?, 0, 0, ?)",
                (datetime.now(UTC).isoformat(timespec="seconds"), json.dumps(environment)),
            )
        if isinstance(self._file, Path):
            _write_whole(self._file.with_name(layout.CONFIG), to_toml(self.run.config))

    def _check(self, there: Run) -> None:
        """Refuse a damaged file, and a run of other settings than was asked for."""
        verdict = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise layout.damaged(self._file, verdict.splitlines()[-1])
        if different := there.differences(self.run):
            raise StoreError(
                f"{self._file} holds a run with other settings ({'; '.join(different)}): ask for "
                "the same ones, or choose another folder"
            )
        if redefined := there.redefined(self.run.definitions, self.done()):
            raise StoreError(
                f"{self._file} was measured when {', '.join(redefined)} had another definition: "
                "choose another folder, or another name for what is new"
            )

    def _tell_gaps(self, there: Run) -> None:
        """Warn of statistics that the cells there lack, or those that will be measured now."""
        done = self.done()
        for more, fewer, count, when in (
            (self.run, there, len(done), "were"),
            (there, self.run, len(set(self.run.cells) - done), "are now"),
        ):
            lacking = [name for name in more.statistics if name not in fewer.statistics]
            if lacking and count:
                warn(
                    f"{self._file}: {', '.join(lacking)} will be NaN in {count:,} cells, which "
                    f"{when} measured without it",
                    stacklevel=5,
                )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with complaints(self._file):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise


def _write_whole(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    fresh = file.with_suffix(".new")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)
