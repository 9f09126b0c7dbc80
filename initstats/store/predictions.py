"""What theory says of a run, kept beside what was measured."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pandas as pd

from initstats.store.errors import DamageError, as_written, complaints
from initstats.store.file import FILE, PREDICTION, PREDICTION_CHECKSUM, marks
from initstats.store.lock import held
from initstats.store.log import keep_mark
from initstats.store.parameters import with_parameters, with_parts
from initstats.store.reading import reading

_WRITTEN = {"i": "INTEGER", "f": ""}
"""SQL's type of a column by numpy's kind, else TEXT; undeclared floats keep their bits."""
_READ = {"INTEGER": "int64", "": "float64", "TEXT": "str"}


def save_predictions(folder: str | Path, predicted: pd.DataFrame) -> None:
    """Keep predictions in a run's folder, all or nothing; earlier ones are replaced.

    Args:
        folder: the run's.
        predicted: one row for each key without its seed and each place: the table's key columns,
            and any further ones that hold text or numbers. Columns of parameters are not kept:
            they are those of the run.

    Raises:
        StoreError: not a run's folder; another driver is at work in it; it cannot be written.
    """
    file = Path(folder) / FILE
    with reading(folder) as (_, run):
        derived = {
            f"{noun}_{parameter}"
            for noun, members in run.parameters.items()
            for parameters in members.values()
            for parameter in parameters
        }
    predicted = predicted.drop(columns=[*derived, "part"], errors="ignore")
    names = ", ".join(
        f'"{name}" {_WRITTEN.get(column.dtype.kind, "TEXT")}' for name, column in predicted.items()
    )
    rows = predicted.astype(object).where(predicted.notna(), None).to_numpy().tolist()
    check = _checksum([*predicted], rows)
    with (
        complaints(file),
        held(file.parent),
        closing(sqlite3.connect(file)) as connection,
        connection,  # commits, or rolls back
    ):
        connection.execute("BEGIN IMMEDIATE")
        keep_mark(connection)
        connection.execute(f"DROP TABLE IF EXISTS {PREDICTION}")
        connection.execute(f"CREATE TABLE {PREDICTION} ({names})")
        connection.executemany(
            f"INSERT INTO {PREDICTION} VALUES ({marks(predicted.columns)})", rows
        )
        connection.execute(f"CREATE TABLE IF NOT EXISTS {PREDICTION_CHECKSUM} (value INTEGER)")
        connection.execute(f"DELETE FROM {PREDICTION_CHECKSUM}")
        connection.execute(f"INSERT INTO {PREDICTION_CHECKSUM} VALUES (?)", (check,))


def load_predictions(folder: str | Path) -> pd.DataFrame | None:
    """The predictions that a run's folder keeps, as they were given; None where it keeps none.

    After the key columns come those of the run's parameters, as in its table.
    """
    with reading(folder) as (connection, run):
        columns = connection.execute(f"PRAGMA table_info({PREDICTION})").fetchall()
        if not columns:
            return None
        rows = connection.execute(f"SELECT * FROM {PREDICTION}").fetchall()
        (check,) = connection.execute(f"SELECT sum(value) FROM {PREDICTION_CHECKSUM}").fetchone()
        with as_written():
            if check != _checksum([name for _, name, *_ in columns], rows):
                raise DamageError("its predictions are not those that were written")
            kinds = {name: _READ[declared] for _, name, declared, *_ in columns}
            frame = pd.DataFrame(rows, columns=list(kinds), dtype=object).astype(kinds)
            keys = [name for name in ("dataset", *run.keys, *run.places) if name in frame]
            parameters = with_parts(with_parameters(frame[keys], run.entries), run.parts)
    return pd.concat([parameters, frame.drop(columns=keys)], axis=1)


def _checksum(names: Sequence[str], rows: Sequence[Sequence[object]]) -> int:
    """A number that tells whether predictions are as they were written."""
    return zlib.crc32(json.dumps([[*map(str, names)], *map(list, rows)]).encode())
