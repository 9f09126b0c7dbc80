"""The log of a killed driver: SQLite plays it into the file beside it, which should be its own.

A file that was restored from a copy may lie beside a log of another day, which would destroy it. So
each driver writes the mark of its session into the file before a log begins, and every transaction
begins with the row that has the mark, so that it is in the log, too.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple, Self

from initstats.store.errors import StoreError
from initstats.store.file import unlogged
from initstats.store.lock import held

_MARK = re.compile(rb"session (\d{1,9}) ([0-9a-f]{16}) after ([0-9a-f]{16})")
_LONGEST, _CHUNK = 64, 1 << 24
"""Bytes of the longest mark, and of what is read at a time."""


class Mark(NamedTuple):
    """The mark of a session: its number, its name, and that of the session before it."""

    number: int
    name: str
    earlier: str

    @classmethod
    def read(cls, text: bytes) -> Iterator[Self]:
        """All marks in some bytes."""
        for number, name, earlier in _MARK.findall(text):
            yield cls(int(number), name.decode(), earlier.decode())

    def next(self) -> Mark:
        """The mark of a session that follows."""
        return Mark(self.number + 1, token_hex(8), self.name)

    def __str__(self) -> str:
        return f"session {self.number} {self.name} after {self.earlier}"


BEFORE = Mark(0, "0" * 16, "0" * 16)
"""What the first session follows."""


def last_mark(connection: sqlite3.Connection) -> Mark:
    """The mark of the last session that a file knows."""
    query = "SELECT mark FROM session ORDER BY id DESC LIMIT 1"
    text, *_ = connection.execute(query).fetchone() or ("",)
    return next(Mark.read(str(text).encode()), BEFORE)


def keep_mark(connection: sqlite3.Connection) -> None:
    """Begin a transaction with the mark, so that it is in the log before anything else is.

    A row that stays the same would not be written. A file without a session has no mark.
    """
    begun = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'session'").fetchone()
    if begun:
        connection.execute(
            "UPDATE session SET writes = writes + 1 WHERE id = (SELECT max(id) FROM session)"
        )


def refuse_strange_log(file: Path) -> None:
    """Make sure that the logs beside a file are its own, or those of a driver at work.

    Raises:
        StoreError: one belongs to another state of the run.
        OSError: one cannot be read.
    """
    log = strange_log(file)
    if log:
        try:
            with held(file.parent):
                log = strange_log(file)
        except sqlite3.OperationalError:
            return  # a driver is at work, which has just begun it
        except (OSError, StoreError):
            pass  # a folder that cannot be written
    if log:
        raise strangeness(log)


def strangeness(log: Path) -> StoreError:
    """The error for a log that is not that of the file beside it."""
    return StoreError(
        f"{log} belongs to another state of the run than the file beside it, which it would "
        "destroy: move it away"
    )


def strange_log(file: Path) -> Path | None:
    """A log beside a file that is not its own; None where there is none."""
    for kind, belongs in (("wal", _is_next_wal), ("journal", _is_next_journal)):
        log = file.with_name(f"{file.name}-{kind}")
        with suppress(FileNotFoundError):  # it may be gone any time
            if log.stat().st_size and not belongs(log, file):
                return log
    return None


def _is_next_wal(log: Path, file: Path) -> bool:
    """Whether a write-ahead log goes on from a file; one without a commit changes nothing."""
    there, found = _in_file(file), _newest(log)
    if there is None:
        return True  # there is nothing to destroy
    return there.name in (found.name, found.earlier) if found else not _has_commit(log)


def _is_next_journal(log: Path, file: Path) -> bool:
    """Whether a rollback journal is of the last transaction of a file.

    One that counts no pages yet changes nothing: the file was not written to either.
    """
    there, found = _in_file(file), _newest(log)
    with log.open("rb") as stream:
        counted = any(stream.read(12)[8:])
    if there is None or not counted:
        return True
    return found.name in (there.name, there.earlier) if found else there.number <= 1


def _in_file(file: Path) -> Mark | None:
    """The last mark in a file itself, whatever its log says; None where it cannot be read.

    SQLite reads it: who opens a file by other means, and closes it, frees the locks that this
    process has on it.
    """
    try:
        with closing(sqlite3.connect(unlogged(file), uri=True)) as connection:
            return last_mark(connection)
    except sqlite3.DatabaseError:
        return None


def _newest(log: Path) -> Mark | None:
    """The newest mark in a log."""
    newest, end = None, b""
    with log.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            newest = max([*filter(None, [newest]), *Mark.read(end + chunk)], default=None)
            end = chunk[-_LONGEST:]
    return newest


def _has_commit(log: Path) -> bool:
    """Whether a write-ahead log has a frame that ends a transaction: it tells the file's size."""
    with log.open("rb") as stream:
        page = int.from_bytes(stream.read(32)[8:12])
        while frame := stream.read(24):
            if any(frame[4:8]):
                return True
            stream.seek(page, 1)
    return False
