"""The lesson's further questions, measured: a leak, many layers, and torch's own default.

Each gives a tidy table that a figure is drawn from.
"""

from __future__ import annotations

import math

import pandas as pd
from torch import Generator, Tensor

from initstats import activations
from initstats.data import Dataset
from initstats.foundations.steps import INPUTS, UNITS, kaiming
from initstats.sweep import Grid, run_sweep

SAMPLES = 500
LEAKS = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, math.sqrt(5), 3.0)
DEEP = {"relu": "relu", "shifted_relu": "relu - 0.5"}
DEFAULTS = ("torch_default", "kaiming_normal")
NETWORKS = {"mlp": UNITS, "cnn": 8}
"""The networks that have a default init, with their widths."""


def leaks(x: Tensor, seeds: int) -> pd.DataFrame:
    """Sizes of a kaiming layer's output and of the leaky relu's behind it, for each slope.

    Args:
        x: (samples, 784), normalized.
        seeds: how many.

    Returns:
        Columns `leak`, `seed`; `std` of the layer's output; `formula`, which is
        sqrt(2 / (1 + leak^2)) times the root mean square of x; `activation`, the root mean square
        behind the leaky relu.
    """
    size = float(x.square().mean().sqrt())
    rows = []
    for leak in LEAKS:
        phi = activations.get(f"leaky_relu(negative_slope={leak!r})")
        for seed in range(seeds):
            h = x @ kaiming(INPUTS, UNITS, Generator().manual_seed(seed), leak)
            after = float(phi(h).square().mean().sqrt())
            formula = size * math.sqrt(2 / (1 + leak**2))
            rows.append((leak, seed, float(h.std()), formula, after))
    return pd.DataFrame(rows, columns=["leak", "seed", "std", "formula", "activation"])


def deep_means(data: Dataset, seeds: int, depth: int = 20) -> pd.DataFrame:
    """relu and relu - 0.5 in a stack of kaiming layers of 50 units.

    Returns:
        Columns `activation`, `seed`, `layer`, `mean` and `std` of the activations.
    """
    grid = Grid(
        inits=["kaiming_normal"],
        activations=list(DEEP),
        widths=[UNITS],
        depth=depth,
        seeds=seeds,
        samples=SAMPLES,
    )
    table = run_sweep(grid, data)
    table["activation"] = table["activation"].astype(str).map(DEEP)
    columns = ["activation", "seed", "layer", "mean", "std"]
    return table.loc[table["tensor"] == "activation", columns]


def defaults(data: Dataset, seeds: int, depth: int = 4) -> pd.DataFrame:
    """torch's default, kaiming_uniform with a = sqrt 5, beside kaiming, under relu.

    For nn.Linear: layers of 50 units. For nn.Conv2d: the lesson's small conv net, 8 channels wide.

    Returns:
        Columns `network`, `init`, `seed`, `layer`, `tensor`, `direction` and `size`: the root mean
        square of the tensor, or of the gradient with respect to it.
    """
    fixed = {"inits": DEFAULTS, "activations": ["relu"], "depth": depth, "backward": True}
    grids = [
        Grid(network=network, widths=[width], seeds=seeds, samples=SAMPLES, **fixed)
        for network, width in NETWORKS.items()
    ]
    table = pd.concat([run_sweep(grid, data) for grid in grids], ignore_index=True)
    table["size"] = table["second_moment"] ** 0.5
    return table[["network", "init", "seed", "layer", "tensor", "direction", "size"]]
