"""Drafts: files and folders that nobody needs once the process that made them is gone.

Their names tell the owner. Who is killed cannot clear up, so whoever comes next does it.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY = "initstats-"
"""How the names of drafts in the folder for temporary files begin."""
_places: set[tuple[Path, str]] = set()
"""Where this process has had drafts, and how their names begin."""


@contextmanager
def draft_file(suffix: str) -> Iterator[Path]:
    """An empty file among the temporary ones; it is gone at the end."""
    prefix = _begin(Path(tempfile.gettempdir()), TEMPORARY)
    number, name = tempfile.mkstemp(prefix=prefix, suffix=suffix)
    os.close(number)
    with _removed(Path(name)) as path:
        yield path


@contextmanager
def draft_folder(folder: str | Path | None = None, prefix: str = TEMPORARY) -> Iterator[Path]:
    """An empty folder inside another one, by default that for temporary files; gone at the end."""
    folder = Path(folder or tempfile.gettempdir())
    name = tempfile.mkdtemp(prefix=_begin(folder, prefix), dir=folder)
    with _removed(Path(name)) as path:
        yield path


def write_whole(file: Path, text: str) -> None:
    """Write a file, or what a link leads to, whole or not at all; a pipe or a device as it comes.

    Raises:
        OSError: it cannot be written; an earlier file stays as it was.
    """
    if file.exists() and not file.is_file():
        file.write_text(text, encoding="utf-8")
        return
    file = file.resolve()
    with draft_folder(file.parent, ".whole-") as draft:
        fresh = draft / "file"
        fresh.write_text(text, encoding="utf-8")
        if file.exists():
            shutil.copymode(file, fresh)
        fresh.replace(file)


def clear_drafts() -> None:
    """Remove all drafts of this process, as before it is ended by force."""
    for folder, prefix in list(_places):
        for path in folder.glob(f"{prefix}{_owner(os.getpid())}*"):
            _remove(path)


def sweep_drafts(folder: Path, prefix: str = TEMPORARY) -> None:
    """Remove the drafts in a folder whose owners are dead; those of other machines stay."""
    owned = re.compile(rf"{re.escape(prefix + _machine())}-(\d+)-")
    for path in folder.glob(f"{prefix}{_machine()}-*"):
        owner = owned.match(path.name)
        if owner and not _is_alive(int(owner[1])):
            _remove(path)


def _begin(folder: Path, prefix: str) -> str:
    """How the name of a new draft begins."""
    _places.add((folder, prefix))
    sweep_drafts(folder, prefix)
    return prefix + _owner(os.getpid())


def _owner(process: int) -> str:
    return f"{_machine()}-{process}-"


def _machine() -> str:
    return re.sub(r"\W+", "", platform.node())[:32]


def _is_alive(process: int) -> bool:
    """Whether there is such a process, or no way to know."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


@contextmanager
def _removed(path: Path) -> Iterator[Path]:
    try:
        yield path
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
