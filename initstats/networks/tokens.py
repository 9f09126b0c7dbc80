"""Numbers about tokens, as the table has them, of tensors as networks lay them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from initstats.moments.tokens import Ratio, resemblance

RESEMBLANCE = ("pair_correlation", "participation_ratio")
"""The columns of `tokens_resemblance`."""


def tokens_resemblance(x: Tensor, tokens: int) -> dict[str, Ratio]:
    """`resemblance` of ([seeds,] units, tokens x samples), each ratio ([seeds,])."""
    rows = x.reshape(*x.shape[:-1], tokens, -1).movedim(-1, -3).mT.contiguous()
    return seed_by_seed(resemblance, rows, 3)


def seed_by_seed(
    function: Callable[[Tensor], Mapping[str, Ratio]], x: Tensor, dims: int
) -> dict[str, Ratio]:
    """The ratios of a tensor of so many dimensions, or of each of several seeds', stacked."""
    if x.ndim == dims:
        return dict(function(x))
    found = [function(each) for each in x]

    def stacked(name: str) -> Ratio:
        top, below = zip(*(each[name] for each in found), strict=True)
        return torch.stack(top), torch.stack(below)

    return {name: stacked(name) for name in found[0]}
