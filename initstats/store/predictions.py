"""What theory says of a run, kept beside what was measured."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd

from initstats.store.file import FILE, complaints, held
from initstats.store.reading import reading

_TABLE = "prediction"
_WORDS = ("dataset", "network", "init", "activation", "tensor", "direction", "note")


def save_predictions(folder: str | Path, predicted: pd.DataFrame) -> None:
    """Keep predictions in a run's folder, all or nothing; earlier ones are replaced.

    Args:
        folder: of the run.
        predicted: one row per (network, init, activation, width, layer, tensor, direction), and a
            `note`; any further columns are numbers.

    Raises:
        StoreError: not a run's folder; another driver is at work in it; it cannot be written.
    """
    file = Path(folder) / FILE
    with reading(folder):  # that it is a run's
        pass
    names = ", ".join(f'"{name}"' for name in predicted)
    marks = ", ".join("?" * len(predicted.columns))
    rows = predicted.astype(object).to_numpy().tolist()
    with (
        complaints(file),
        held(file.parent),
        closing(sqlite3.connect(file)) as connection,
        connection,  # commits, or rolls back
    ):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"DROP TABLE IF EXISTS {_TABLE}")
        connection.execute(f"CREATE TABLE {_TABLE} ({names})")
        connection.executemany(f"INSERT INTO {_TABLE} VALUES ({marks})", rows)


def load_predictions(folder: str | Path) -> pd.DataFrame | None:
    """The predictions that a run's folder keeps, as they were given; None where it keeps none.

    Raises:
        StoreError: as `load_table`.
    """
    with reading(folder) as (connection, _):
        if not connection.execute(
            "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (_TABLE,)
        ).fetchone():
            return None
        cursor = connection.execute(f"SELECT * FROM {_TABLE}")
        names = [column[0] for column in cursor.description]
        rows = pd.DataFrame(cursor.fetchall(), columns=names, dtype=object)
    kinds = {name: "str" if name in _WORDS else "float64" for name in names}
    return rows.astype(kinds | dict.fromkeys(("width", "layer"), "int64"))
