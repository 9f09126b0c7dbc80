"""From the file of a run to tables.

All that read a folder raise `StoreError` as `load_table` does.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from initstats.registry import unknown
from initstats.store.cells import Cell, committed, packed_cells, places_of, sound_cells
from initstats.store.errors import StoreError, as_written, complaints
from initstats.store.file import FILE, found_run
from initstats.store.histograms import add, unpack
from initstats.store.log import refuse_strange_log
from initstats.store.parameters import with_parameters, with_parts
from initstats.store.run import Key, Run

Value = int | str | float
"""What a key column holds."""


def load_table(folder: str | Path) -> pd.DataFrame:
    """All rows of a run, finished or not: one for each place of a cell.

    Key columns that hold names are categoricals in the order of the run's lists, which is the
    order of the rows too. After the key columns come those of parameters that vary. Statistics are
    bit for bit as measured; in rows older than the statistic they are NaN.

    Raises:
        StoreError: not a run's folder, a damaged file, or one of another version.
    """
    with reading(folder) as (connection, run):
        return table(connection, run, run)


def load_histograms(
    folder: str | Path,
    *,
    networks: str | Iterable[str] | None = None,
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
        folder: the run's, finished or not.
        networks, inits, activations, widths, seeds, layers, tensors, directions: which values of a
            key column to keep, one or several, spelled as in the table; None keeps all. A whole
            study has some ten million nonempty bins.

    Returns:
        The key columns and those of parameters, the bin's edges `low` and `high` (both 0 for exact
        zeros, infinite for what is not finite), and its `count` of entries.

    Raises:
        ValueError: a value that the run does not have.
    """
    given: dict[str, Value | Iterable[Value] | None] = {
        "network": networks,
        "init": inits,
        "activation": activations,
        "width": widths,
        "seed": seeds,
        "layer": layers,
        "tensor": tensors,
        "direction": directions,
    }
    asked = {name: values for name, values in given.items() if values is not None}
    with reading(folder) as (connection, run):
        places = _places(connection, run)
        there = run.lists | {name: list(places[name].unique()) for name in run.places}
        kept = there | {name: _wanted(name, values, there) for name, values in asked.items()}
        part = run.part({name: kept[name] for name in run.keys})
        numbers = places.index[places.isin(kept).all(axis=1)]
        return _histograms(connection, run, part, numbers)


def sum_histograms(
    folder: str | Path,
    *,
    among: Mapping[str, Collection[Value]] | None = None,
    tensor: str = "activation",
    direction: str = "forward",
    verified: bool = False,
) -> Iterator[tuple[Key, NDArray[np.int64]]]:
    """The histograms of a run, those of all seeds added up, by the other key columns of a cell.

    For those who need many of them, but less than `load_histograms` gives. Each is (layers, bins);
    `load_run(folder).bins` are the edges.

    Args:
        among: the values that a key column may have; by default all.
        verified: whether all cells were found to be sound just now, by `load_table`; then only
            the histograms are read, and of damage only what decompression notices is told.
    """
    with reading(folder) as (connection, run):
        part = run.part(
            {
                name: [value for value in run.lists[name] if value in values]
                for name, values in (among or {}).items()
            }
        )
        places = _places(connection, run)
        keep = places.index[(places["tensor"] == tensor) & (places["direction"] == direction)]
        found = (packed_cells if verified else sound_cells)(connection, run, part)
        for key, cells in groupby(found, lambda cell: cell.key[:-1]):
            yield key, _summed(run, cells, keep)


def load_run(folder: str | Path) -> Run:
    """The configuration and the settings of a run."""
    with reading(folder) as (_, run):
        return run


def is_run(folder: str | Path) -> bool:
    """Whether a folder has the file of a run."""
    return (Path(folder) / FILE).is_file()


def committed_cells(folder: str | Path) -> tuple[Run, set[Key]]:
    """A run, and the keys of its committed cells, which are not verified."""
    with reading(folder) as (connection, run):
        return run, {key for _, key in committed(connection, run, run)}


def load_sessions(folder: str | Path) -> pd.DataFrame:
    """The drivers that worked on a run, in order, one a row.

    Returns:
        When it `started` (UTC), `seconds` until its last commit, `cells` committed, and a column
        for each thing noted of its environment.
    """
    with reading(folder) as (connection, _):
        sessions = connection.execute("SELECT started, seconds, cells, environment FROM session")
        names = ("started", "seconds", "cells")
        with as_written():
            return pd.DataFrame(
                dict(
                    zip(
                        names, (pd.Timestamp(str(started)), float(seconds), int(cells)), strict=True
                    )
                )
                | json.loads(environment)
                for started, seconds, cells, environment in sessions
            )


def table(connection: sqlite3.Connection, run: Run, part: Run) -> pd.DataFrame:
    """The rows of the committed cells that a part of a run lists, in its order.

    Raises:
        DamagedCellsError: some of them are not as they were written.
    """
    chosen = [list(run.statistics).index(name) for name in part.statistics]
    (most,) = connection.execute("SELECT count(*) FROM measurement").fetchone()
    columns = [np.empty(most) for _ in chosen]  # filled once: a table may be half of the memory
    place, sizes = np.empty(most, np.int64), list[int]()
    keys, stop = list[Key](), 0
    for found in sound_cells(connection, run, part):
        start, stop = stop, stop + len(found.places)
        sizes.append(stop - start)
        keys.append(found.key)
        place[start:stop] = found.places
        for column, position in zip(columns, chosen, strict=True):
            column[start:stop] = found.statistics[:, position]
    cell = np.repeat(np.arange(len(keys)), sizes)
    frame = with_parameters(_keys(connection, part, keys, cell, place[:stop]), part.entries)
    frame = with_parts(frame, part.parts)
    columns.reverse()
    for name, integer in part.statistics.items():
        column = columns.pop()[:stop]
        # NaN in rows older than an integer statistic
        frame[name] = column.astype(np.int64) if integer and (column % 1 == 0).all() else column
    return frame


def _histograms(
    connection: sqlite3.Connection, run: Run, part: Run, places: pd.Index
) -> pd.DataFrame:
    """The nonempty bins of the cells that a part of a run lists, at some places."""
    low, high = (np.array(edges) for edges in run.bins)
    keys, found = list[Key](), [np.empty((4, 0), np.int64)]
    for index, each in enumerate(sound_cells(connection, run, part)):
        counts = _unpacked(run, each)
        row, where = np.nonzero(counts * np.isin(each.places, places)[:, None])
        keys.append(each.key)
        found.append(
            np.stack([np.full_like(row, index), each.places[row], where, counts[row, where]])
        )
    cell, place, where, count = np.concatenate(found, axis=1)
    columns = with_parameters(_keys(connection, part, keys, cell, place), run.entries)
    columns = with_parts(columns, part.parts)
    return columns.assign(low=low[where], high=high[where], count=count)


def _summed(run: Run, cells: Iterable[Cell], places: pd.Index) -> NDArray[np.int64]:
    """The histograms of cells that have the same places, at some of these, added up."""
    first, *others = cells
    kept = np.flatnonzero(np.isin(first.places, places))
    total = np.zeros((len(kept), len(run.bins[0])), np.int64)
    with as_written():
        for cell in (first, *others):
            add(cell.histograms, kept, total, rows=len(cell.places))
    return total


def _unpacked(run: Run, cell: Cell) -> NDArray[np.int64]:
    """The histograms of a cell, (rows, bins)."""
    with as_written():
        return unpack(cell.histograms, rows=len(cell.places), bins=len(run.bins[0]))


def _keys(
    connection: sqlite3.Connection,
    run: Run,
    committed: Sequence[Key],
    cell: NDArray[np.int64],
    place: NDArray[np.int64],
) -> pd.DataFrame:
    """The key columns, by the index of each row's cell and the number of its place."""
    by_cell = pd.DataFrame(committed, columns=list(run.keys))
    by_cell.insert(0, "dataset", run.settings["dataset"])
    by_place = _places(connection, run).loc[pd.unique(place)]
    orders: dict[str, Any] = {"dataset": [run.settings["dataset"]]}
    orders |= {name: run.lists[name] for name, kind in run.keys.items() if kind == "text"}
    orders |= {name: by_place[name].unique() for name, kind in run.places.items() if kind == "text"}
    kinds: dict[str, Any] = {name: "float64" for name, kind in run.keys.items() if kind == "real"}
    kinds |= {name: pd.CategoricalDtype(order) for name, order in orders.items()}
    parts = (
        part.astype({name: kinds.get(name, "int64") for name in part.columns})
        .loc[index]
        .reset_index(drop=True)
        for part, index in ((by_cell, cell), (by_place, place))
    )
    return pd.concat(parts, axis=1)


def _wanted(
    noun: str, values: Value | Iterable[Value], there: Mapping[str, Sequence[Value]]
) -> list[Value]:
    """The values of a key column to keep, in the order that they have there."""
    if noun not in there:
        raise unknown("key column", noun, list(there))
    asked = [values] if isinstance(values, int | str | float) else list(values)
    for value in asked:
        if value not in there[noun]:
            raise unknown(noun, str(value), list(map(str, there[noun])))
    return [value for value in there[noun] if value in asked]


def _places(connection: sqlite3.Connection, run: Run) -> pd.DataFrame:
    """The place columns of all places, by the number of each."""
    places = places_of(connection, run)
    return pd.DataFrame(list(places.values()), list(places), list(run.places))


@contextmanager
def reading(folder: str | Path) -> Iterator[tuple[sqlite3.Connection, Run]]:
    """One snapshot of a run's file, and the run that it holds."""
    file = Path(folder) / FILE
    if not file.is_file():
        raise StoreError(f"{folder} is not a run's folder: there is no {FILE} in it")
    with complaints(file):
        refuse_strange_log(file)
        # rw where possible: what a killed driver left half done is rolled back before it is read
        uri = f"{file.resolve().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            connection.execute("BEGIN")  # one snapshot, while a driver may be adding to the run
            run = found_run(connection, file)
            if run is None:
                raise StoreError(f"{folder} holds a run that never began: start it again")
            yield connection, run
