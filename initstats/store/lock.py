"""The lock of a run's folder: one driver at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from initstats.store.errors import BUSY, StoreError

LOCK = "run.lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; it is free again when its holder dies.

    Its file is empty, and stays: if the holder removed it, one who had it open already and one who
    made it anew would both hold a lock.

    Raises:
        StoreError: somebody else's file is in its place, or it cannot be locked.
        OSError: it cannot be made.
        sqlite3.OperationalError: another process holds it.
    """
    file = folder / LOCK
    if file.is_symlink() or (file.exists() and not (file.is_file() and file.stat().st_size == 0)):
        raise StoreError(
            f"{file} is in the place of a run's lock, which is an empty file: move it away, or "
            "choose another folder"
        )
    if not file.exists():
        file.touch()  # tells better than SQLite why it cannot be made
    with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as lock:
        try:
            lock.execute("PRAGMA journal_mode = MEMORY")
            lock.execute("BEGIN EXCLUSIVE")
            lock.execute("CREATE TABLE held (x)")  # fails where a lock cannot be exclusive
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in BUSY:
                raise
            raise StoreError(
                f"cannot lock {file}: {error}: mend this, or choose another folder"
            ) from error
        yield
