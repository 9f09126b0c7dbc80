"""Arrays that are mapped from a file, sent to other processes of this machine by its name.

They share the memory then, and what is sent is a few hundred bytes.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def dumps_mapped(value: object) -> bytes:
    """The pickle of something; the file of an array that is mapped must stay until it is loaded."""
    stream = io.BytesIO()
    _Pickler(stream, pickle.HIGHEST_PROTOCOL).dump(value)
    return stream.getvalue()


class _Pickler(pickle.Pickler):
    """Names the file of an array that was mapped to be read."""

    def reducer_override(self, value: Any) -> Any:
        numpy = sys.modules.get("numpy")  # else there are no arrays
        if numpy and type(value) is numpy.memmap and value.flags.c_contiguous and value.nbytes:
            whole = value
            while isinstance(whole, numpy.ndarray):
                whole = whole.base
            if isinstance(whole, mmap.mmap) and value.mode in ("r", "c") and value.filename:
                into = value.ctypes.data - numpy.frombuffer(whole, numpy.uint8).ctypes.data
                # a mapping begins at a page of the file, and the first array in it
                start = value.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
                file = os.fspath(value.filename)
                place = (value.dtype, value.shape, start + into)
                return _map, (file, _identity(file), *place)
        return NotImplemented


def _map(
    file: str, identity: tuple[int, ...], dtype: np.dtype[Any], shape: tuple[int, ...], offset: int
) -> np.memmap[Any, Any]:
    """The array at a place of a file.

    Raises:
        OSError: the file is gone, or another one.
    """
    import numpy as np

    if _identity(file) != identity:
        raise OSError(f"{file} was changed while it was in use: start again")
    return np.memmap(file, dtype, "c", offset, shape)


def _identity(file: str) -> tuple[int, ...]:
    """What tells a file from a later one of its name."""
    state = Path(file).stat()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns
