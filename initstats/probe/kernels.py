"""Kernels for the CPU that tell whether numbers changed, and by how much, at the memory's speed."""

from __future__ import annotations

import math

import numpy as np

from initstats.compiling import kernel, part

_ODD, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)
"""An odd number, 2**64 over the golden ratio: multiplying by it loses nothing."""


@part()
def _mixed(chain, word):  # type: ignore[no-untyped-def]
    chain = (chain ^ np.uint64(word)) * _ODD
    return chain ^ (chain >> _SHIFT)


@kernel()
def mark(words):  # type: ignore[no-untyped-def]
    """A number that a changed word always changes, and any other change but once in 2**64.

    Args:
        words: (entries,) integers.
    """
    # four chains, so that a multiplication need not wait for the one before
    a, b, c, d = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    quarter = len(words) // 4
    for i in range(quarter):
        a = _mixed(a, words[i])
        b = _mixed(b, words[i + quarter])
        c = _mixed(c, words[i + 2 * quarter])
        d = _mixed(d, words[i + 3 * quarter])
    for i in range(4 * quarter, len(words)):
        a = _mixed(a, words[i])
    return _mixed(_mixed(_mixed(a, b), c), d)


@kernel(fastmath={"reassoc", "contract", "nsz"})
def follow(old, new):  # type: ignore[no-untyped-def]
    """Copy new numbers to old ones; the root mean squares of the update and of what it changed.

    Args:
        old, new: (entries,) floats of one type.
    """
    update, before = 0.0, 0.0
    for i in range(len(old)):
        step = np.float64(new[i]) - np.float64(old[i])
        update += step * step
        before += np.float64(old[i]) * np.float64(old[i])
        old[i] = new[i]
    return math.sqrt(update / max(len(old), 1)), math.sqrt(before / max(len(old), 1))


@kernel()
def differ(old, new):  # type: ignore[no-untyped-def]
    """Whether some words, (entries,) integers, are others."""
    for start in range(0, len(old), 4096):
        found = old[0] ^ old[0]
        for i in range(start, min(start + 4096, len(old))):
            found |= old[i] ^ new[i]
        if found:
            return True
    return False
