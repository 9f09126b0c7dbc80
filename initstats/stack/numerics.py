"""The state of the machine that a cell's last bits depend on, and its speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_numerics() -> Iterator[None]:
    """One thread, full float32 products, denormals flushed, no autograd; all restored afterwards.

    Each of these can change a result's last bits or its speed by an order of magnitude, so they
    are the same wherever a cell is computed.
    """
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    flushed = flushes_denormals()
    try:
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("highest")
        torch.set_flush_denormal(True)
        with torch.no_grad():
            yield
    finally:
        torch.set_flush_denormal(flushed)
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)


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
