"""Numbers about the tokens of sequences: how they resemble, and how they attend to, each other."""

from __future__ import annotations

import torch
from torch import Tensor

Ratio = tuple[Tensor, Tensor]
"""Numerator and denominator, in float64: the sums of all tiles' are divided."""
HIDDEN = -1e37
"""A score that is not attended to: its exponential is 0, and 0 times it is 0."""
_BLOCK = 2**22  # most entries of a kernel that are computed at once
_WIDE, _PARTS = 192, 4  # a kernel of so many tokens is computed in so many parts
_SMALL, _LARGE = 1e-9, 1e9  # between them squares of squares fit float32 products and their sums


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
        count = torch.full((len(x),), x.shape[1], dtype=torch.float64, device=x.device)
    else:
        x, count = torch.where(counted[..., None], x, 0), counted.sum(-1).double()
    power, own, every, square = _sums_of_kernel(x)
    there, paired = own > 0, (own > 0) & (count > 1)
    pairs = power * (every - own) / (count * (count - 1)).clamp_min(1)
    ratio = own.square() / torch.where(there, square, 1)
    return {
        "pair_correlation": (
            torch.where(paired, pairs, 0).sum(),
            torch.where(paired, power * own / count.clamp_min(1), 0).sum(),
        ),
        "participation_ratio": (torch.where(there, ratio, 0).sum(), _number(there)),
    }


def _sums_of_kernel(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A factor and tr K, sum K and tr K^2 of each sample over it, all (samples,), in float64.

    Samples with entries that are not finite have 0 everywhere.
    """
    if x.device.type == "cpu":
        low, high = x.aminmax()
        size = max(-low.item(), high.item())  # NaN or not, only what is between them is taken
        if _SMALL < size < _LARGE:
            own, every, square = _plain_sums(x)
            if own.min().item() > _SMALL**2:
                return torch.ones_like(own), own, every, square
    sizes = x.abs().amax((-2, -1), keepdim=True)
    there = (sizes > 0) & sizes.isfinite()
    x = torch.where(there, x / torch.where(there, sizes, 1), 0)
    power = torch.where(there, sizes, 0).double().square()[:, 0, 0]
    return power, *_plain_sums(x)


def _plain_sums(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """tr K, sum K and tr K^2; the kernel between units has the same traces as that of tokens."""
    every = x.sum(-2).double().square().sum(-1)
    x = x if x.shape[-2] <= x.shape[-1] else x.mT
    side = x.shape[-2]
    rows = side if side < _WIDE else -(-side // _PARTS)
    rows = min(rows, max(1, _BLOCK // (len(x) * side)))
    square = torch.zeros_like(every)
    for start in range(0, side, rows):  # a kernel is symmetric: what is above its blocks is below
        kernel = x[:, start : start + rows] @ x[:, : start + rows].mT
        square += 2 * _square(kernel) - _square(kernel[..., start:])
    return _square(x), every, square


def _square(x: Tensor) -> Tensor:
    """The sum of squares of each matrix, in float64."""
    size: Tensor = torch.linalg.vector_norm(x, dim=(-2, -1), dtype=torch.float64)
    return size.square()


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
    entropy = torch.special.entr(weights).sum(-1)
    return evenness_of_rows(torch.stack((entropy, weights.square().sum(-1)), -1), choices)


def evenness_of_scores(scores: Tensor, choices: Tensor) -> dict[str, Ratio]:
    """The same of the weights that a softmax makes of scores, in a third of the time.

    Args:
        scores: (..., rows, tokens), where a token that is not attended to has `HIDDEN`, or less.
        choices: as in `evenness`.
    """
    _, rows = weights_of(scores - scores.amax(-1, keepdim=True))
    return evenness_of_rows(rows, choices)


def weights_of(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The weights that a softmax makes of scores, with their entropies and sums of squares.

    Args:
        scores: (..., rows, tokens), of which the largest in each row is 0.

    Returns:
        The weights, of the same shape, and the two numbers of each row, (..., rows, 2).
    """
    shares = scores.exp()
    total = shares.sum(-1, keepdim=True)
    weights = shares.div_(total)
    # log p = score - log(total)
    entropy = total[..., 0].log() - torch.linalg.vecdot(weights, scores)
    return weights, torch.stack((entropy, torch.linalg.vecdot(weights, weights)), -1)


def evenness_of_rows(rows: Tensor, choices: Tensor) -> dict[str, Ratio]:
    """`evenness` of the entropy and the sum of squares of each row, (..., rows, 2)."""
    entropy, squares = rows.unbind(-1)
    known = (choices > 0) & squares.isfinite()
    chooses = known & (choices > 1)
    most = torch.where(chooses, choices, 2).double().log()
    return {
        "attention_entropy": (torch.where(chooses, entropy / most, 0).sum(), _number(chooses)),
        "concentration": (torch.where(known, squares.double(), 0).sum(), _number(known)),
    }


def _number(which: Tensor) -> Tensor:
    return which.sum().double()
