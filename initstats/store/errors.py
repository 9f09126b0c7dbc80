"""What is wrong with the file of a run, in a line of ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from initstats.plural import counted
from initstats.store.run import Key

BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_NAMED = 3
"""Of many damaged cells, so many are named."""


class StoreError(ValueError):
    """A run's folder that cannot be used as asked; what is in it stays as it is."""


class DamageError(Exception):
    """The file holds something else than was written."""


class DamagedCellsError(Exception):
    """Some cells hold something else than was written, by their keys; the others are sound."""

    def __init__(self, keys: Sequence[Key]) -> None:
        names = [" ".join(map(str, key)) for key in keys[:_NAMED]]
        if len(keys) > _NAMED:
            names.append(f"{len(keys) - _NAMED:,} more")
        count = counted(len(keys), "cell is", "cells are")
        super().__init__(f"{count} damaged ({', '.join(names)})")


@contextmanager
def complaints(file: Path | str) -> Iterator[None]:
    """Say in a line what is the matter with a file, instead of what SQLite or the system say."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _complaint(file, error) from error
    except (DamageError, UnicodeDecodeError) as error:
        raise damaged(file, error) from error
    except DamagedCellsError as error:
        folder = Path(file).parent
        raise StoreError(
            f"{file}: {error}; the command that made the run measures them again: "
            f"initstats sweep --config {folder / 'grid.toml'} --out {folder}"
        ) from error
    except OSError as error:
        raise StoreError(
            f"cannot use {file}: {error.strerror or error}: choose another folder"
        ) from error


@contextmanager
def as_written() -> Iterator[None]:
    """Take whatever goes wrong with what a file holds for its damage: it was sound when written."""
    try:
        yield
    except StoreError:
        raise
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DamageError(f"{type(error).__name__}: {reason[:200]}") from error


def damaged(file: Path | str, reason: object) -> StoreError:
    """The error for a file that holds something else than was written."""
    return StoreError(
        f"{file} is damaged ({reason}) and was left as it is: move it away, or choose another "
        "folder"
    )


def _complaint(file: Path | str, error: sqlite3.DatabaseError) -> StoreError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _DAMAGED:
        return damaged(file, error)
    if code in BUSY:
        return StoreError(f"{file} is in use by another run: wait for it, or choose another folder")
    return StoreError(
        f"cannot use {file}: {error}; what was committed is safe: mend this and run the same "
        "again, or choose another folder"
    )
