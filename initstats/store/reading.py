"""From the file of a run to tables."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from initstats.registry import unknown
from initstats.store.file import FILE, StoreError, cells, checked_run, complaints, is_empty
from initstats.store.histograms import unpack
from initstats.store.run import PLACE, Cell, Run

Value = TypeVar("Value", int, str)


def load_table(folder: str | Path) -> pd.DataFrame:
    """All rows of a run, finished or not: one per cell, layer, tensor and direction.

    Key columns that hold names are categoricals in the order of the run's lists, which is the
    order of the rows too. Statistics are bit for bit as measured.

    Raises:
        StoreError: not a run's folder, a damaged file, or one of another version.
    """
    with reading(folder) as (connection, run):
        return table(connection, run)


def load_histograms(
    folder: str | Path,
    *,
    inits: str | Iterable[str] | None = None,
    activations: str | Iterable[str] | None = None,
    widths: int | Iterable[int] | None = None,
    seeds: int | Iterable[int] | None = None,
    layers: int | Iterable[int] | None = None,
    tensors: str | Iterable[str] | None = None,
    directions: str | Iterable[str] | None = None,
) -> pd.DataFrame:
    """The histograms of a run: one row per nonempty bin, with the key columns of the table.

    Args:
        folder: of the run, finished or not.
        inits, activations, widths, seeds, layers, tensors, directions: which values of a key
            column to keep, one or several, spelled as in the table; None keeps all. A whole study
            has some ten million nonempty bins.

    Returns:
        The key columns, the bin's edges `low` and `high` (both 0 for exact zeros, infinite for
        what is not finite), and its `count` of entries.

    Raises:
        StoreError: as `load_table`.
        ValueError: a value that the run does not have.
    """
    with reading(folder) as (connection, run):
        lists = {
            "inits": _kept("init", inits, run.config["inits"]),
            "activations": _kept("activation", activations, run.config["activations"]),
            "widths": _kept("width", widths, run.config["widths"]),
            "seeds": _kept("seed", seeds, run.config["seeds"]),
        }
        layer, tensor, direction = zip(*run.rows, strict=True)
        kept_layers = _kept("layer", layers, layer)
        kept_tensors = _kept("tensor", tensors, tensor)
        kept_directions = _kept("direction", directions, direction)
        keep = [
            layer in kept_layers and tensor in kept_tensors and direction in kept_directions
            for layer, tensor, direction in run.rows
        ]
        return _histograms(connection, replace(run, config=run.config | lists), np.array(keep))


def iterate_histograms(
    folder: str | Path, *, tensor: str = "activation", direction: str = "forward"
) -> Iterator[tuple[Cell, NDArray[np.int64]]]:
    """The histograms of a run cell by cell, (layers, bins); `load_run(folder).bins` are the edges.

    For those who need all of them, but less than `load_histograms` gives.

    Raises:
        StoreError: as `load_table`.
    """
    with reading(folder) as (connection, run):
        keep = [index for index, place in enumerate(run.rows) if place[1:] == (tensor, direction)]
        query = "SELECT histogram FROM cell WHERE id = ?"
        for cell, number in _committed(connection, run).items():
            packed = connection.execute(query, (number,)).fetchone()[0]
            yield cell, unpack(packed, rows=len(run.rows), bins=len(run.bins[0]))[keep]


def load_run(folder: str | Path) -> Run:
    """The configuration and the settings of a run.

    Raises:
        StoreError: as `load_table`.
    """
    with reading(folder) as (_, run):
        return run


def load_sessions(folder: str | Path) -> pd.DataFrame:
    """The drivers that worked on a run, in order, one a row.

    Returns:
        When it `started` (UTC), `seconds` until its last commit, `cells` committed, and a column
        for each thing noted of its environment.

    Raises:
        StoreError: as `load_table`.
    """
    with reading(folder) as (connection, _):
        sessions = connection.execute("SELECT started, seconds, cells, environment FROM session")
        names = ("started", "seconds", "cells")
        return pd.DataFrame(
            dict(zip(names, (pd.Timestamp(started), *numbers), strict=True)) | json.loads(rest)
            for started, *numbers, rest in sessions
        )


def table(connection: sqlite3.Connection, run: Run) -> pd.DataFrame:
    """The rows of the committed cells that a run lists, in its order."""
    numbers = _committed(connection, run)
    names = ", ".join(f'"{name}"' for name in run.statistics)
    query = f"SELECT {names} FROM measurement WHERE cell = ? ORDER BY position"
    values = np.empty((len(run.statistics), len(numbers), len(run.rows)))
    for index, number in enumerate(numbers.values()):
        values[:, index] = np.array(connection.execute(query, (number,)).fetchall(), np.float64).T
    statistics = {
        name: column.astype(np.int64) if integer else column
        for (name, integer), column in zip(
            run.statistics.items(), values.reshape(len(values), -1), strict=True
        )
    }
    cell, row = np.indices((len(numbers), len(run.rows))).reshape(2, -1)
    return _keys(run, list(numbers), cell, row).assign(**statistics)


def _histograms(connection: sqlite3.Connection, run: Run, keep: NDArray[np.bool_]) -> pd.DataFrame:
    """The nonempty bins of the cells that a run lists, of the rows to keep."""
    numbers = _committed(connection, run)
    low, high = (np.array(edges) for edges in run.bins)
    found = [np.empty((4, 0), np.int64)]
    for index, number in enumerate(numbers.values()):
        query = "SELECT histogram FROM cell WHERE id = ?"
        packed = connection.execute(query, (number,)).fetchone()[0]
        counts = unpack(packed, rows=len(run.rows), bins=len(low))
        row, where = np.nonzero(counts * keep[:, None])
        found.append(np.stack([np.full_like(row, index), row, where, counts[row, where]]))
    cell, row, where, count = np.concatenate(found, axis=1)
    keys = _keys(run, list(numbers), cell, row)
    return keys.assign(low=low[where], high=high[where], count=count)


def _keys(
    run: Run, committed: Sequence[Cell], cell: NDArray[np.int64], row: NDArray[np.int64]
) -> pd.DataFrame:
    """The key columns, by the index of each row's cell and of its place in the cell."""
    by_cell = pd.DataFrame(committed, columns=Cell._fields)
    by_cell.insert(0, "dataset", run.settings["dataset"])
    by_place = pd.DataFrame(run.rows, columns=PLACE)
    orders = {
        "dataset": [run.settings["dataset"]],
        "network": run.config["networks"],
        "init": run.config["inits"],
        "activation": run.config["activations"],
        "tensor": by_place["tensor"].unique(),
        "direction": by_place["direction"].unique(),
    }
    kinds = {name: pd.CategoricalDtype(order) for name, order in orders.items()}
    parts = (
        part.astype({name: kinds.get(name, "int64") for name in part.columns})
        .take(index)
        .reset_index(drop=True)
        for part, index in ((by_cell, cell), (by_place, row))
    )
    return pd.concat(parts, axis=1)


def _committed(connection: sqlite3.Connection, run: Run) -> dict[Cell, int]:
    """The committed cells that a run lists, in its order, and the number of each."""
    numbers = cells(connection)
    return {cell: numbers[cell] for cell in run.cells if cell in numbers}


def _kept(
    noun: str, wanted: Value | Iterable[Value] | None, available: Collection[Value]
) -> list[Value]:
    """The values of a key column that are wanted; None is all of them."""
    if wanted is None:
        return list(available)
    asked = [wanted] if isinstance(wanted, int | str) else list(wanted)
    for value in asked:
        if value not in available:
            raise unknown(noun, str(value), list(dict.fromkeys(map(str, available))))
    return [value for value in available if value in asked]


@contextmanager
def reading(folder: str | Path) -> Iterator[tuple[sqlite3.Connection, Run]]:
    """One snapshot of a run's file, and the run that it holds."""
    file = Path(folder) / FILE
    if not file.is_file():
        raise StoreError(f"{folder} is not a run's folder: there is no {FILE} in it")
    # rw, where it may: what a killed driver left half done is rolled back before it is read
    uri = f"{file.resolve().as_uri()}?mode=rw"
    with (
        complaints(file),
        closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection,
    ):
        connection.execute("BEGIN")  # one snapshot, while a driver may be adding to the run
        if is_empty(connection):
            raise StoreError(f"{folder} holds a run that never began: start it again")
        yield connection, checked_run(connection, file)
