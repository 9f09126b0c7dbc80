"""Numbers about the tokens of sequences: how they resemble, and how they attend to, each other."""

from __future__ import annotations

import torch
from torch import Tensor

Ratio = tuple[Tensor, Tensor]
"""Numerator and denominator, in float64: the sums of all tiles' are divided."""
BLOCK = 2**22
"""Most entries of a kernel that are computed at once."""


def resemblance(x: Tensor, counted: Tensor | None = None) -> dict[str, Ratio]:
    """Numbers about the kernel K between the tokens of each sample, K_st = x_s . x_t.

    A sample with entries that are not finite is left out, and one of a single token has no pairs.

    Args:
        x: (samples, tokens, units), float32 or float64.
        counted: booleans, (samples, tokens): which tokens count; by default all do.

    Returns:
        `pair_correlation`, the mean of K_st over pairs s != t over that of K_ss, and
        `participation_ratio`, the mean over samples of (tr K)^2 / tr K^2: how many directions the
        tokens take, between 1 and their number.
    """
    if counted is None:
        count = torch.full_like(x[:, 0, 0], x.shape[1], dtype=torch.float64)
    else:
        x, count = torch.where(counted[..., None], x, 0), counted.sum(-1).double()
    size = x.abs().amax((-2, -1), keepdim=True)
    there = (size > 0) & size.isfinite()
    x = torch.where(
        there, x / torch.where(there, size, 1), 0
    )  # squares neither over- nor underflow
    power, there = size.double().square()[:, 0, 0], there[:, 0, 0]
    own = torch.linalg.vector_norm(x, dim=(-2, -1), dtype=torch.float64).square()
    all_pairs = x.sum(-2, dtype=torch.float64).square().sum(-1)
    pairs = (all_pairs - own) / (count * (count - 1)).clamp_min(1)
    paired = there & (count > 1)
    ratio = own.square() / _square_of_kernel(x)
    return {
        "pair_correlation": (
            torch.where(paired, power * pairs, 0).sum(),
            torch.where(paired, power * own / count, 0).sum(),
        ),
        "participation_ratio": (torch.where(there, ratio, 0).sum(), there.sum().double()),
    }


def _square_of_kernel(x: Tensor) -> Tensor:
    """tr K^2 of each sample, (samples,): between tokens or units it is the same."""
    x = x if x.shape[-2] <= x.shape[-1] else x.mT
    rows = max(1, BLOCK // max(1, len(x) * x.shape[-2]))
    parts = [
        torch.linalg.vector_norm(block @ x.mT, dim=(-2, -1), dtype=torch.float64).square()
        for block in torch.split(x, rows, -2)
    ]
    return torch.stack(parts).sum(0)


def evenness(weights: Tensor, choices: Tensor) -> dict[str, Ratio]:
    """Numbers about how evenly tokens attend to others.

    Args:
        weights: (..., rows, tokens), float32 or float64: shares of 1 in each row.
        choices: (..., rows): to how many tokens a row may attend; rows without any, and those whose
            weights are not finite, are left out.

    Returns:
        `attention_entropy`, the mean over rows of the entropy over its largest, the logarithm of
        the choices, without rows that have only one, and `concentration`, the mean over rows of
        the sum of squares.
    """
    surprise = torch.special.entr(weights).sum(-1).double()
    squares = weights.square().sum(-1).double()
    known = (choices > 0) & squares.isfinite()
    chooses = known & (choices > 1)
    most = torch.where(chooses, choices, 2).double().log()
    return {
        "attention_entropy": (torch.where(chooses, surprise / most, 0).sum(), _number(chooses)),
        "concentration": (torch.where(known, squares, 0).sum(), _number(known)),
    }


def _number(which: Tensor) -> Tensor:
    return which.sum().double()
