"""The state of the machine that a cell's last bits depend on, and its speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch

from initstats.gaussian import one_thread

_lock = Lock()
_precisions: list[str] = []
"""The precision that each call inside has met: the first one is the caller's, to be restored."""


@contextmanager
def exact_numerics() -> Iterator[None]:
    """One thread, full float32 products, denormals flushed, no autograd; all restored afterwards.

    Each of these can change a result's last bits or its speed by an order of magnitude, so they
    are the same wherever a cell is computed. Several threads may be inside at once: `one_thread`,
    denormals and autograd belong to a thread, the precision of products to the process.
    """
    flushed = flushes_denormals()
    with one_thread(), _full_precision(), torch.no_grad():
        torch.set_flush_denormal(True)
        try:
            yield
        finally:
            torch.set_flush_denormal(flushed)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Full float32 products: the first thread that comes in sets them, the last one restores."""
    with _lock:
        _precisions.append(torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        with _lock:
            met = _precisions.pop()
            if not _precisions:
                torch.set_float32_matmul_precision(met)


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for later use, instead of returning it to the system.

    glibc maps a block larger than any that was freed before anew, page by page, and shrinks its
    heap by as much: a tile's temporaries would take longer to get than to fill. The block freed
    here was never touched, and is as large as glibc looks at; other libraries ignore it.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def flushes_denormals() -> bool:
    """Whether results below the smallest normal number become 0 (torch keeps no record of it)."""
    tiny = torch.full((), torch.finfo(torch.float32).tiny, dtype=torch.float32)
    return bool(tiny / 2 == 0)
