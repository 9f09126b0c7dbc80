"""Code of the user's own may change the working directory, where relative paths begin."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def staying() -> Iterator[None]:
    """Wherever the code inside goes, the working directory is afterwards what it was."""
    here = None
    with suppress(FileNotFoundError):  # it is deleted
        here = Path.cwd()
    try:
        yield
    finally:
        if here:
            with suppress(OSError):
                os.chdir(here)
