"""How the tokens of a sequence resemble each other."""

from __future__ import annotations

import torch
from torch import Tensor

RESEMBLANCE = ("pair_correlation", "participation_ratio")
"""The columns of `resemblance`."""


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
    by_sample = (
        x.reshape(*x.shape[:-1], tokens, -1).movedim(-1, -3).mT
    )  # ([seeds,] samples, tokens, units)
    size = by_sample.abs().amax((-2, -1), keepdim=True)
    scaled = by_sample / torch.where(size > 0, size, 1)  # squares neither overflow nor vanish
    kernel = scaled @ scaled.mT
    own = kernel.diagonal(dim1=-2, dim2=-1).sum(-1).double()
    all_pairs, square = kernel.sum((-2, -1)).double(), kernel.double().square().sum((-2, -1))
    power = size.double().square().flatten(-3)
    # of one sample the mean of K_ss is tr K / tokens
    pairs = power * (all_pairs - own) / max(tokens * (tokens - 1), 1)
    there = own > 0
    ratio = torch.where(there, own.square() / torch.where(there, square, 1), 0)
    return {
        "pair_correlation": (pairs.sum(-1), (power * own / tokens).sum(-1)),
        "participation_ratio": (ratio.sum(-1), there.double().sum(-1)),
    }
