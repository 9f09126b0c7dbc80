"""Functions compiled by numba, which give the same bits on the first run as on every later one.

numba keeps the machine code of a function with copies of the functions that it calls. A process
that compiles has those also by themselves, optimized in another place, and calls these; a process
that loads calls the copies. Where the order of a sum is free, the two may differ in the last
digits. So a kernel calls nothing: its parts become a piece of it before it is optimized.

numba numbers the files of a kernel's machine codes by an index of them. Two processes that compile
for different types, or processors, at one moment take the same number, and the index of one then
names the code of the other, for ever. So a file is named by what it holds.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
from collections.abc import Callable
from typing import Any

import numba
from numba.core.caching import IndexDataCacheFile

Decorator = Callable[[Callable[..., Any]], Any]


def kernel(**options: Any) -> Decorator:
    """Compile a function that Python calls, and keep it on disk where that is possible."""

    def decorate(function: Callable[..., Any]) -> Any:
        compiled = numba.njit(error_model="numpy", **options)(function)
        try:
            chosen = numba.njit(cache=True, error_model="numpy", **options)(function)
        except RuntimeError:  # neither the package's folder nor the home can be written to
            return compiled
        chosen._cache._cache_file.__class__ = _NamedFiles

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            nonlocal chosen
            try:
                return chosen(*arguments)
            except (OSError, EOFError, pickle.UnpicklingError):  # a full disk, or a damaged file
                chosen = compiled
                return chosen(*arguments)

        return call

    return decorate


def part(**options: Any) -> Decorator:
    """Compile a function into each kernel of the same file that calls it."""
    return numba.njit(error_model="numpy", forceinline=True, **options)  # type: ignore[no-any-return]


class _NamedFiles(IndexDataCacheFile):
    """numba's files of a function."""

    def save(self, key: Any, data: Any) -> None:
        """Keep a machine code, by the types and the processor that it is for."""
        self._content = hashlib.sha256(repr((self._source_stamp, key)).encode()).hexdigest()[:16]
        super().save(key, data)  # type: ignore[no-untyped-call]

    def _data_name(self, number: int) -> str:
        return f"{self._index_name}.{self._content}.{number}.nbc"
