"""The lesson's further questions, measured: a leak, many layers, and torch's own default.

Each gives a tidy table that a figure is drawn from.
"""

from __future__ import annotations

import math

import pandas as pd
from torch import Generator, Tensor

from initstats import activations, inits
from initstats.data import Split
from initstats.foundations.steps import INPUTS, UNITS, kaiming
from initstats.moments import STATISTICS
from initstats.networks import get
from initstats.stack import Settings, run_stack

SAMPLES = 500
LEAKS = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, math.sqrt(5), 3.0)
DEEP = {"relu": "relu", "relu - 0.5": "shifted_relu"}
DEFAULTS = ("torch_default", "kaiming_normal")


def leaks(x: Tensor, seeds: int) -> pd.DataFrame:
    """A kaiming layer for a leaky relu of each slope: what comes out of it, and of the relu.

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


def deep_means(split: Split, seeds: int, depth: int = 20) -> pd.DataFrame:
    """relu and relu - 0.5 in a stack of kaiming layers of 50 units.

    Returns:
        Columns `activation`, `seed`, `layer`, `mean` and `std` of the activations.
    """
    settings = Settings(depth, SAMPLES)
    table = _stacks("mlp", "kaiming_normal", list(DEEP.values()), UNITS, split, seeds, settings)
    names = {spelling: name for name, spelling in DEEP.items()}
    table["activation"] = table["activation"].map(names)
    columns = ["activation", "seed", "layer", "mean", "std"]
    return table.loc[table["tensor"] == "activation", columns]


def defaults(split: Split, seeds: int, depth: int = 4) -> pd.DataFrame:
    """torch's default, kaiming_uniform with a = sqrt 5, beside kaiming, under relu.

    For nn.Linear: layers of 50 units. For nn.Conv2d: the lesson's small conv net, 8 channels wide.

    Returns:
        Columns `network`, `init`, `seed`, `layer`, `tensor`, `direction` and `size`: the root mean
        square of the tensor, or of the gradient with respect to it.
    """
    settings = Settings(depth, SAMPLES, backward=True)
    tables = [
        _stacks(network, init, ["relu"], width, split, seeds, settings).assign(
            network=network, init=init
        )
        for network, width in (("mlp", UNITS), ("cnn", 8))
        for init in DEFAULTS
    ]
    table = pd.concat(tables, ignore_index=True)
    table["size"] = table["second_moment"] ** 0.5
    return table[["network", "init", "seed", "layer", "tensor", "direction", "size"]]


def _stacks(
    network: str,
    init: str,
    names: list[str],
    width: int,
    split: Split,
    seeds: int,
    settings: Settings,
) -> pd.DataFrame:
    """The rows of `run_stack` for some seeds, on the first samples of a split."""
    some, entries = split.first(settings.samples), [activations.get(name) for name in names]
    net = get(network).on(some.shape, width, settings.depth)
    places = net.places(backward=settings.backward)
    keys = pd.DataFrame(places, columns=["layer", "tensor", "direction"])
    tables = []
    for seed in range(seeds):
        scheme = inits.get(init)
        results = run_stack(net, scheme, entries, [seed], some, None, settings)
        for name, result in zip(names, results, strict=True):
            statistics = pd.DataFrame(result.statistics, columns=list(STATISTICS))
            tables.append(keys.join(statistics).assign(activation=name, seed=seed))
    return pd.concat(tables, ignore_index=True)
