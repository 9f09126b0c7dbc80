"""The lesson's draws, repeated: one layer's statistics over all validation images, seed by seed.

A seed is `Generator().manual_seed(seed)`, and its weights are what the lesson's own line draws
from it. Kaiming's are the same numbers times sqrt 2, and relu passes a factor on, so that one
product serves every step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor

from initstats.foundations.steps import UNITS, simplified_kaiming
from initstats.stack import exact_numerics

SEEDS_AT_ONCE, IMAGES_AT_ONCE = 20, 1000


def repeat_draws(x: Tensor, seeds: int, workers: int = 1) -> pd.DataFrame:
    """Mean and standard deviation (ddof=1, as torch) of the first layer's output under each seed.

    Args:
        x: (samples, inputs), normalized.
        seeds: how many: 0 .. seeds - 1. A seed's numbers do not depend on how many there are.
        workers: threads.

    Returns:
        Indexed by seed; the columns are pairs of a step, `simplified kaiming`, `relu`, `kaiming`,
        `torch's kaiming` or `relu - 0.5`, and a quantity, `mean` or `std`.
    """
    varying = (x != x[0]).any(0)  # a sixth of MNIST's pixels are black in every image
    constant = x[0, ~varying]
    parts = (x[at : at + IMAGES_AT_ONCE] for at in range(0, len(x), IMAGES_AT_ONCE))
    tiles = [part[:, varying].T.contiguous() for part in parts]
    starts = range(0, seeds, SEEDS_AT_ONCE)
    with exact_numerics(), ThreadPoolExecutor(workers) as pool:
        sums = torch.cat(list(pool.map(partial(_sums, tiles, varying, constant), starts)))
    entries = len(x) * UNITS
    linear, squares, relu, relu_squares = sums[:seeds].T.numpy() / entries
    unbias = entries / (entries - 1)
    linear_std = np.sqrt((squares - linear**2) * unbias)
    relu_std = np.sqrt((relu_squares - relu**2) * unbias)
    two = math.sqrt(2)
    columns = {
        ("simplified kaiming", "mean"): linear,
        ("simplified kaiming", "std"): linear_std,
        ("relu", "mean"): relu,
        ("relu", "std"): relu_std,
        ("kaiming", "mean"): two * relu,
        ("kaiming", "std"): two * relu_std,
        ("torch's kaiming", "mean"): two * relu,
        ("torch's kaiming", "std"): two * relu_std,
        ("relu - 0.5", "mean"): two * relu - 0.5,
        ("relu - 0.5", "std"): two * relu_std,
    }
    return pd.DataFrame(columns).rename_axis("seed").rename_axis(["step", "quantity"], axis=1)


def _sums(tiles: Sequence[Tensor], varying: Tensor, constant: Tensor, start: int) -> Tensor:
    """Of the output, its square, its relu and the relu's square, (seeds, 4), float64."""
    w = torch.cat(
        [
            simplified_kaiming(len(varying), UNITS, Generator().manual_seed(seed)).T
            for seed in range(start, start + SEEDS_AT_ONCE)
        ]
    )
    rows, offset = w[:, varying], (w[:, ~varying] @ constant)[:, None]
    sums = torch.zeros(len(w), 4, dtype=torch.float64)
    for tile in tiles:
        h = torch.addmm(offset, rows, tile)
        for column in (0, 2):
            sums[:, column] += h.sum(1)
            sums[:, column + 1] += torch.linalg.vector_norm(h, dim=1).double().square()
            h.clamp_min_(0)
    return sums.view(SEEDS_AT_ONCE, UNITS, 4).sum(1)
