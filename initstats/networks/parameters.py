"""What the parameters of networks and of blocks may be, and what is said of one that may not."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

MOST = 10**9
"""The greatest size of anything that a network counts."""
LARGEST = float.fromhex("0x1.fffffep+127")
"""The greatest number of float32, in which networks run."""


def is_number(value: object) -> bool:
    """Whether a value is a real number, numpy's too; NaN and infinities are, booleans are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_sizes(block: str = "", *, least: int = 1, **sizes: Any) -> None:
    """Refuse a size that is no whole number from `least` on, or too great to be one.

    Args:
        block: the block whose sizes they are; empty for the parameters of a network, which a
            user knows by their names alone.
        least: the smallest size allowed.
    """
    of = f"{block}: " if block else ""
    for name, size in sizes.items():
        whole = is_number(size) and math.isfinite(size) and float(size).is_integer()
        if not (whole and size >= least):
            raise ValueError(f"{of}{name} is a whole number, at least {least}: got {_short(size)}")
        if size > MOST:
            raise ValueError(f"{of}{name} is at most {MOST:,}: got {size:g}")


def check_shares(**shares: Any) -> None:
    """Refuse a share of what a network leaves out that is negative, or all."""
    for name, share in shares.items():
        if not (is_number(share) and 0 <= share < 1):
            raise ValueError(f"{name} is a share, at least 0 and below 1: got {_short(share)}")


def check_odd(kernel: int) -> None:
    """Refuse a kernel that makes branches give another plane than they read."""
    if kernel % 2 == 0:
        raise ValueError(f"kernel is odd where branches add to what they read: got {kernel}")


def check_factors(**factors: Any) -> None:
    """Refuse a factor that is no finite number of float32."""
    for name, factor in factors.items():
        if not (is_number(factor) and abs(factor) <= LARGEST):
            raise ValueError(f"{name} is a factor, finite in float32: got {_short(factor)}")


def _short(value: object) -> str:
    """A number in few digits; text in quotes, which tell it from a number."""
    return f"{value:g}" if is_number(value) else repr(value)
