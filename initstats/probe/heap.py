"""The heap of a process, whose gaps go back to the system while a model is measured.

A model's values are large, and come and go; what is kept of them is small, and stays. The small
pieces settle between the large ones, which then fit nowhere any more, so that the heap of the C
library grows by a value with each layer, and is full of gaps.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

GROWTH = 2**25
"""Bytes by which the memory of the process may grow before gaps are given back."""


class Heap:
    """Gives the gaps of the heap back whenever much memory was taken.

    Memory in use is not touched. Where the C library is not glibc, or the system tells no size,
    nothing is done.
    """

    def __init__(self) -> None:
        self._trim = _trimming()
        self._level = resident() if self._trim else 0
        self._since = self._all = 0

    def hear(self, size: int) -> None:
        """Hear that a value of so many bytes was measured, and look whether the process grew."""
        self._since, self._all = self._since + size, self._all + size
        if self._trim and self._since >= GROWTH:
            self._since = 0
            if resident() > self._level + GROWTH:
                self._trim(0)
                self._level = resident()

    def close(self) -> None:
        """Give back all gaps, unless little was measured."""
        if self._trim and self._all >= GROWTH:
            self._trim(0)


def resident() -> int:
    """The bytes of memory that this process has; 0 where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


@cache
def _trimming() -> Any:
    """The function of glibc that gives back gaps; None elsewhere."""
    with suppress(OSError, TypeError, AttributeError):
        return ctypes.CDLL(None).malloc_trim
    return None
