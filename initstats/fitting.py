"""The loop of LSUV (Mishkin and Matas 2016, arXiv:1511.06422), for any layer."""

from __future__ import annotations

import math
from collections.abc import Callable


def fit_std(
    std: Callable[[], float],
    divide: Callable[[float], None],
    *,
    target: float = 1.0,
    tolerance: float,
    rounds: int,
) -> float:
    """Divide a layer's weights until its output has the std that is wanted, as LSUV does.

    Args:
        std: measures the output.
        divide: divides the weights by a factor.
        target: the std that is wanted.
        tolerance: largest relative difference from it.
        rounds: largest number of divisions.

    Returns:
        The last std measured; 0 or not finite where the weights cannot be fitted.
    """
    size = std()
    for _ in range(rounds):
        if not 0 < size < math.inf or abs(size / target - 1) <= tolerance:
            break
        divide(size / target)
        size = std()
    return size
