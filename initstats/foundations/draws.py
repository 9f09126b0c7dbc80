"""The lesson's draws, repeated: statistics of one layer's output, seed by seed.

A seed is `Generator().manual_seed(seed)`, and its weights are what the lesson's own line draws
from it. Kaiming's are the same numbers times sqrt 2, and relu passes a factor on, so that one
product serves every step. The engine draws otherwise, and would take 2.6 times as long.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pandas as pd
from torch import Generator, Tensor

from initstats.foundations.steps import INPUTS, UNITS, relu, simplified_kaiming
from initstats.stack import exact_numerics


def repeat_draws(x: Tensor, seeds: int, workers: int = 1) -> pd.DataFrame:
    """Mean and standard deviation (ddof=1, as torch) of the first layer's output under each seed.

    Args:
        x: (samples, 784), normalized.
        seeds: how many: 0 .. seeds - 1.
        workers: threads.

    Returns:
        Indexed by seed; the columns are pairs of a step, `simplified kaiming`, `relu`, `kaiming`,
        `torch's kaiming` or `relu - 0.5`, and a quantity, `mean` or `std`.
    """
    with exact_numerics(), ThreadPoolExecutor(workers) as pool:
        drawn = list(pool.map(partial(_draw, x), range(seeds)))
    columns = pd.MultiIndex.from_product([["simplified kaiming", "relu"], ["mean", "std"]])
    table = pd.DataFrame(drawn, columns=columns).rename_axis("seed")
    for step in ("kaiming", "torch's kaiming", "relu - 0.5"):
        table[step, "mean"] = math.sqrt(2) * table["relu", "mean"]
        table[step, "std"] = math.sqrt(2) * table["relu", "std"]
    table["relu - 0.5", "mean"] -= 0.5
    return table.rename_axis(["step", "quantity"], axis=1)


def _draw(x: Tensor, seed: int) -> list[float]:
    """Mean and std of the output under one seed, then those of its relu."""
    h = x @ simplified_kaiming(INPUTS, UNITS, Generator().manual_seed(seed))
    return [float(number) for t in (h, relu(h)) for number in (t.mean(), t.std())]
