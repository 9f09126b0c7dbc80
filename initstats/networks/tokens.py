"""How the tokens of a sequence resemble each other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RESEMBLANCE = ("pair_correlation", "participation_ratio")
"""The columns of `resemblance`."""
_LEAST, _MOST = 1e-8, 1e8


def resemblance(x: Tensor, tokens: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Numbers about the kernel K between the tokens of each sample, K_st = x_s . x_t.

    Args:
        x: ([seeds,] units, tokens x samples).
        tokens: how many a sample has.

    Returns:
        Numerators and denominators, ([seeds,]), of `pair_correlation`, the mean of K_st over pairs
        s != t over that of K_ss, and of `participation_ratio`, the mean over samples of
        (tr K)^2 / tr K^2: how many directions the tokens take, between 1 and their number.
    """
    rows = x.reshape(*x.shape[:-1], tokens, -1).movedim(-1, -3).mT.contiguous()
    size, power = float(rows.abs().max()), 1.0
    if not _LEAST < size < _MOST and 0 < size < math.inf:
        rows, power = rows / size, size**2  # squares of squares neither overflow nor vanish
    kernel = rows @ rows.mT  # samples, tokens, tokens
    own = kernel.diagonal(dim1=-2, dim2=-1).sum(-1, dtype=torch.float64)
    all_pairs = kernel.sum((-2, -1), dtype=torch.float64)
    square = kernel.square_().sum((-2, -1), dtype=torch.float64)
    there = own > 0
    ratio = torch.where(there, own.square() / torch.where(there, square, 1), 0)
    # of one sample the mean of K_ss is tr K / tokens
    pairs = (all_pairs - own).sum(-1) / max(tokens * (tokens - 1), 1)
    return {
        "pair_correlation": (power * pairs, power * own.sum(-1) / tokens),
        "participation_ratio": (ratio.sum(-1), there.double().sum(-1)),
    }
