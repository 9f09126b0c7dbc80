"""Numbers that follow a formula, and were not drawn: spacings, positions, matrices of state spaces.

They may be equal in all blocks, and say nothing of chance.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST = 6
"""Numbers that follow a formula, at least, for it not to be chance."""
_ROWS = 16  # that show most weights to be no such thing, before all of a large one is looked at
_EXACT = 1e-3
_FAR = 6.0  # standard errors
_TAIL = 8.0  # medians of the sizes
_APART = 0.3  # of the size of the steps from one entry to the next, relative to independent ones


def computed(x: Tensor) -> bool:
    """Whether entries follow one of the known formulas exactly.

    They are equal steps, or a power, logarithm or exponential of such, the same in all rows; or
    sines and cosines of positions. Of numbers drawn by chance one in a billion looks like that.

    Args:
        x: finite numbers, of any shape.
    """
    x = x.flatten(0, -2) if x.ndim > 1 and not x.is_complex() else x
    return x.ndim > 0 and all(_follows(_real(part)) for part in (x[:_ROWS], x))


def _follows(x: Tensor) -> bool:
    """Whether the entries follow a formula."""
    vector = _once(x)
    if vector.numel() == max(vector.shape, default=0):
        return _stepped(vector.reshape(-1))
    return x.ndim == 2 and _circles(x)


def independent(x: Tensor) -> bool:
    """Whether neighbours say nothing of each other, as where each entry was drawn for itself.

    Rows that are repeated count once. Neither the entries of a smooth function, as of a matrix for
    state spaces, are independent, nor sorted ones.

    Args:
        x: finite numbers, of any shape.
    """
    if computed(x):
        return False
    x = _once(_real(x))
    if usual := float(x.abs().median()):
        x = x.clamp(-_TAIL * usual, _TAIL * usual)  # a few far ones say little of all
    for axis in (axis for axis in range(x.ndim) if x.shape[axis] > 2):
        lines = x.movedim(axis, -1).reshape(-1, x.shape[axis])
        steps = lines.diff(dim=1)
        orders = len(lines) * (math.lgamma(x.shape[axis] + 1) - math.log(2))
        if orders > math.log(1e6) and bool(((steps >= 0).all(1) | (steps <= 0).all(1)).all()):
            return False
        spread = (lines - lines.mean(1, keepdim=True)).square().sum() / (x.shape[axis] - 1)
        # von Neumann 1941: the mean square of a step is twice the variance
        ratio = float(steps.square().sum() / (x.shape[axis] - 1) / 2 / spread)
        if abs(ratio - 1) > max(_APART, _FAR / math.sqrt(x.numel())):
            return False
    return True


def _real(x: Tensor) -> Tensor:
    x = x.detach()
    return (torch.view_as_real(x) if x.is_complex() else x).double()


def _once(x: Tensor) -> Tensor:
    """A tensor without the repeats of what is the same along a whole axis, or several in a row."""
    for axis in range(x.ndim):
        if x.shape[axis] > 1 and torch.equal(x.select(axis, 0), x.select(axis, 1)):
            x = torch.unique_consecutive(x, dim=axis)
    return x


def _stepped(x: Tensor) -> bool:
    """Whether numbers, or their exponentials, squares or logarithms, have equal steps."""
    if x.numel() < LEAST:
        return False
    ways = [x, x.square(), x.abs().clamp(max=100.0).exp()]
    ways += [x.abs().log()] if bool((x != 0).all()) else []
    for y in ways:
        steps = y.diff()
        mean = float(steps.mean())
        if mean and bool(((steps / mean - 1).abs() < _EXACT).all()):
            return True
    return False


def _circles(x: Tensor) -> bool:
    """Whether the entries of each row are sines and cosines, in pairs; (positions, entries)."""
    width = x.shape[1]
    if len(x) < 2 or width < LEAST or width % 2:
        return False
    squares, rows = x.square(), len(x)
    pairs = [squares.view(rows, -1, 2).sum(2), squares.view(rows, 2, -1).sum(1)]
    if width % 4 == 0:  # of rows and of columns
        pairs.append(squares.view(rows, 2, 2, -1).sum(2))
    # all are 1 where they are sines and cosines of the same angle, times one number
    return any(bool(((p / p.mean() - 1).abs() < _EXACT).all()) for p in pairs)
