"""The state of the machine that a cell's last bits depend on, and its speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, local

import torch

_lock, _own = Lock(), local()
_inside: list[tuple[int, str]] = []
"""For each thread inside: torch's threads and the precision, before the first thread came in."""


@contextmanager
def exact_numerics() -> Iterator[None]:
    """One thread, full float32 products, denormals flushed, no autograd; all restored afterwards.

    Each of these can change a result's last bits or its speed by an order of magnitude, so they
    are the same wherever a cell is computed. Several threads may be inside at once. The precision
    of products belongs to the process: the first thread that comes in sets it, the last one that
    leaves restores it. The other settings belong to a thread, which restores its own.
    """
    if getattr(_own, "inside", False):
        with torch.no_grad():
            yield
        return
    flushed, threads = flushes_denormals(), _enter()
    _own.inside = True
    try:
        torch.set_flush_denormal(True)
        with torch.no_grad():
            yield
    finally:
        torch.set_flush_denormal(flushed)
        _own.inside = False
        _leave(threads)


def _enter() -> int:
    """Set what concerns the process; the number of torch's threads to restore for this thread."""
    with _lock:
        threads = torch.get_num_threads()
        before = _inside[0] if _inside else (threads, torch.get_float32_matmul_precision())
        _inside.append(before)
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("highest")
    # a thread that began while others were inside started with their 1
    return before[0] if threads == 1 else threads


def _leave(threads: int) -> None:
    with _lock:
        _, precision = _inside.pop()
        torch.set_num_threads(threads)
        if not _inside:
            torch.set_float32_matmul_precision(precision)


def keep_freed_memory() -> None:
    """Have the C library hand freed memory out again, rather than back to the system.

    glibc maps a block larger than any that was freed before anew, page by page, and shrinks its
    heap by as much: a tile's temporaries would take longer to get than to fill. What is freed here
    was never touched, and is as large as glibc looks at; elsewhere it does nothing.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def flushes_denormals() -> bool:
    """Whether results below the smallest normal number become 0 (torch keeps no record of it)."""
    tiny = torch.full((), torch.finfo(torch.float32).tiny, dtype=torch.float32)
    return bool(tiny / 2 == 0)
