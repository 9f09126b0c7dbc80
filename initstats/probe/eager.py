"""The stance of torch's compiler while models are probed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

import torch


class Eager:
    """Compiled models run their own Python code while any probe is open, in whatever order."""

    def __init__(self) -> None:
        self._lock, self._open, self._stack = Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._open:
                self._stack.enter_context(torch.compiler.set_stance("force_eager"))
                self._stack.enter_context(_ignored(".*torch.compile.*global hooks"))
            self._open += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._open -= 1
            if not self._open:
                self._stack.close()


EAGER = Eager()


@contextmanager
def _ignored(message: str) -> Iterator[None]:
    """Ignore a warning meanwhile, and leave filters that come in the meantime alone."""
    warnings.filterwarnings("ignore", message)
    entry = warnings.filters[0]
    try:
        yield
    finally:
        if entry in warnings.filters:
            warnings.filters.remove(entry)  # type: ignore[attr-defined]
