"""What theory says of a run, kept beside what was measured."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd

from initstats.store.file import FILE, complaints, held, marks
from initstats.store.parameters import with_parameters
from initstats.store.reading import reading

_TABLE = "prediction"
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
    predicted = predicted.drop(columns=list(derived), errors="ignore")
    names = ", ".join(
        f'"{name}" {_WRITTEN.get(column.dtype.kind, "TEXT")}' for name, column in predicted.items()
    )
    rows = predicted.astype(object).where(predicted.notna(), None).to_numpy().tolist()
    with (
        complaints(file),
        held(file.parent),
        closing(sqlite3.connect(file)) as connection,
        connection,  # commits, or rolls back
    ):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"DROP TABLE IF EXISTS {_TABLE}")
        connection.execute(f"CREATE TABLE {_TABLE} ({names})")
        connection.executemany(f"INSERT INTO {_TABLE} VALUES ({marks(predicted.columns)})", rows)


def load_predictions(folder: str | Path) -> pd.DataFrame | None:
    """The predictions that a run's folder keeps, as they were given; None where it keeps none.

    After the key columns come those of the run's parameters, as in its table.
    """
    with reading(folder) as (connection, run):
        columns = connection.execute(f"PRAGMA table_info({_TABLE})").fetchall()
        if not columns:
            return None
        kinds = {name: _READ[declared] for _, name, declared, *_ in columns}
        rows = connection.execute(f"SELECT * FROM {_TABLE}").fetchall()
    frame = pd.DataFrame(rows, columns=list(kinds), dtype=object).astype(kinds)
    keys = [name for name in ("dataset", *run.keys, *run.places) if name in frame]
    return pd.concat([with_parameters(frame[keys], run.entries), frame.drop(columns=keys)], axis=1)
