"""The committed cells of a run, each verified by its checksum."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import compress
from operator import getitem
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from initstats.store.errors import DamagedCellsError
from initstats.store.file import quoted
from initstats.store.run import Key, Run


class Cell(NamedTuple):
    """A committed cell.

    Attributes:
        number: its id in the file.
        places: the ids of its rows' places, (rows,).
        statistics: (rows, statistics), in the order of the run.
        histograms: of its rows, packed.
        sound: whether it holds what was written.
    """

    number: int
    key: Key
    places: NDArray[np.int64]
    statistics: NDArray[np.float64]
    histograms: bytes
    sound: bool


def checksum(
    key: Key,
    places: int,
    names: Sequence[str],
    statistics: NDArray[np.float64],
    histograms: bytes,
) -> int:
    """A number that tells whether a cell is as it was written: a CRC-32.

    It finds every single flipped bit and every run of up to 32 bits, at a gigabyte a second; damage
    is an accident, so that no stronger digest is needed. Statistics that are NaN in all rows do not
    count, as those are not that are younger than the cell.

    Args:
        places: the `digest` of the places of its rows.
        names: of the statistics.
        statistics: (rows, statistics).
        histograms: packed.
    """
    order = _order(tuple(names))
    values = statistics[:, order]
    missing = np.isnan(values)
    there = ~missing.all(axis=0)
    values[missing] = np.nan  # there are several kinds of it
    head = json.dumps([key, places, _named(tuple(names), there.tobytes())]).encode()
    rows = values[:, there].astype("<f8").tobytes()
    return zlib.crc32(histograms, zlib.crc32(rows, zlib.crc32(head)))


@cache
def _order(names: tuple[str, ...]) -> list[int]:
    """The statistics in an order that does not depend on that of a run."""
    return sorted(range(len(names)), key=names.__getitem__)


@cache
def _named(names: tuple[str, ...], there: bytes) -> int:
    """A number for the names of those statistics, in this order, that are there."""
    return zlib.crc32(json.dumps([*compress(sorted(names), there)]).encode())


@lru_cache(maxsize=16)
def digest(places: tuple[Key, ...]) -> int:
    """A number for the places of a cell's rows in their order."""
    return zlib.crc32(json.dumps([*map(list, places)]).encode())


def sound_cells(connection: sqlite3.Connection, run: Run, part: Run) -> Iterator[Cell]:
    """The cells that a part of a run lists, in its order.

    Raises:
        DamagedCellsError: at the end, where some are not as they were written.
    """
    damaged = []
    for cell in cells(connection, run, part):
        if cell.sound:
            yield cell
        else:
            damaged.append(cell.key)
    if damaged:
        raise DamagedCellsError(damaged)


def cells(connection: sqlite3.Connection, run: Run, part: Run) -> Iterator[Cell]:
    """The cells that a part of a run lists, in its order; after them those that no run can have."""
    places = places_of(connection, run)
    digests: dict[bytes, int] = {}
    rows_of = (
        f"SELECT position, place, {quoted(run.statistics)} FROM measurement "
        "WHERE cell = ? ORDER BY position"
    )
    rest_of = "SELECT histogram, checksum FROM cell WHERE id = ?"
    for number, key in committed(connection, run, part):
        rows = connection.execute(rows_of, (number,)).fetchall()
        histograms, expected = connection.execute(rest_of, (number,)).fetchone()
        try:
            values = np.array(rows, np.float64).reshape(len(rows), 2 + len(run.statistics))
            with np.errstate(invalid="ignore"):
                where = values[:, 1].astype(np.int64)
            known = digests.get(where.tobytes())
            if known is None:
                known = digests[where.tobytes()] = digest(
                    tuple(places[place] for place in where.tolist())
                )
            found = checksum(key, known, [*run.statistics], values[:, 2:], histograms)
            sound = found == expected and bool((values[:, 0] == np.arange(len(rows))).all())
            yield Cell(number, key, where, values[:, 2:], histograms, sound)
        except (TypeError, ValueError, KeyError):  # text in the place of a number, and the like
            nothing = np.empty((0, len(run.statistics)))
            yield Cell(number, key, np.empty(0, np.int64), nothing, b"", False)


def packed_cells(connection: sqlite3.Connection, run: Run, part: Run) -> Iterator[Cell]:
    """The cells that a part of a run lists, without their statistics, and not verified."""
    nothing, listed, known = np.empty((0, 0)), _ranks(part.lists), dict[str, NDArray[np.int64]]()
    # as one text, which nearly all cells have in common
    query = (
        "SELECT histogram, (SELECT group_concat(place) FROM "
        "(SELECT place FROM measurement WHERE cell = id ORDER BY position)) FROM cell WHERE id = ?"
    )
    for number, key in committed(connection, run, part):
        if _rank(list(key), listed) is None:  # type: ignore[arg-type]
            continue
        packed, places = connection.execute(query, (number,)).fetchone()
        if places not in known:
            known[places] = np.array(places.split(",") if places else [], np.int64)
        yield Cell(number, key, known[places], nothing, packed, sound=True)


def committed(connection: sqlite3.Connection, run: Run, part: Run) -> list[tuple[int, Key]]:
    """The ids and keys of the cells that a part of a run lists, in its order.

    After them come those that the run itself does not list, which are damaged.
    """
    listed, wanted = (_ranks(each.lists) for each in (run, part))
    names = [list(values) for values in part.lists.values()]
    found, strange = [], []
    for number, *key in connection.execute(f"SELECT id, {quoted(run.keys)} FROM cell ORDER BY id"):
        if _rank(key, listed) is None or not run.pairs(key):
            strange.append((number, tuple(key)))
        elif (rank := _rank(key, wanted)) and part.pairs(key):
            found.append((rank, number))
    found.sort()
    # one object a name: a list of keys as SQLite gives them would be many times as large
    named = ((number, tuple(map(getitem, names, rank))) for rank, number in found)
    return [*named, *strange]


def places_of(connection: sqlite3.Connection, run: Run) -> dict[int, Key]:
    """The place columns of all places, by the id of each."""
    rows = connection.execute(f"SELECT id, {quoted(run.places)} FROM place ORDER BY id")
    return {number: tuple(place) for number, *place in rows}


def _ranks(lists: Mapping[str, Sequence[str | int]]) -> list[dict[str | int, int]]:
    return [{value: rank for rank, value in enumerate(values)} for values in lists.values()]


def _rank(
    key: Sequence[str | int], ranks: Sequence[Mapping[str | int, int]]
) -> tuple[int, ...] | None:
    """Where a key stands in the product of some lists; None where it does not."""
    found = [rank.get(value) for value, rank in zip(key, ranks, strict=True)]
    return None if None in found else tuple(rank for rank in found if rank is not None)
