"""Files that users name: a pipe or a device, which may wait or go on for ever, is never opened."""

from __future__ import annotations

import os
from pathlib import Path

MOST = 2**24
"""Bytes of the longest text that is read: some hundred times what a study of ours has."""
SHOWN = 5
"""So many names stand in a message."""


def read_text(path: str | Path) -> str:
    """The text of a file, UTF-8.

    Raises:
        ValueError: the file cannot be read, is no text, or is longer than 16 MiB; the message is
            one line that names it.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "a pipe, a socket or a device"
            raise ValueError(f"cannot read {path}: it is no file but {what}")
        with path.open("rb") as stream:
            content = stream.read(MOST + 1)
        if len(content) > MOST:
            raise ValueError(f"cannot read {path}: it is longer than {MOST >> 20} MiB")
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read {path}: it is no text ({error.reason})") from error
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error


def shown(name: str) -> str:
    """A name in letters that can be printed, whatever bytes it has on the disk."""
    return os.fsencode(name).decode(errors="backslashreplace")


def some(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = [f"{len(names) - SHOWN:,} more"] if len(names) > SHOWN else []
    return ", ".join([*map(shown, names[:SHOWN]), *more])
