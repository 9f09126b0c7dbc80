"""Functions compiled by numba, which give the same bits on the first run as on every later one.

numba keeps the machine code of a function with copies of the functions that it calls. A process
that compiles has those also by themselves, optimized in another place, and calls these; a process
that loads calls the copies. Where the order of a sum is free, the two may differ in the last
digits. So a kernel calls nothing: its parts become a piece of it before it is optimized.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any

import numba

Decorator = Callable[[Callable[..., Any]], Any]


def kernel(**options: Any) -> Decorator:
    """Compile a function that Python calls, and keep it on disk where that is possible."""

    def decorate(function: Callable[..., Any]) -> Any:
        compiled = numba.njit(error_model="numpy", **options)(function)
        try:
            chosen = numba.njit(cache=True, error_model="numpy", **options)(function)
        except RuntimeError:  # neither the package's folder nor the home can be written to
            return compiled

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
