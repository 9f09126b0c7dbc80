"""The lesson's numbers, each beside what was published and how it spreads over the draws."""

from __future__ import annotations

import os
import statistics
import time
from typing import NamedTuple

import pandas as pd
import torch
from torch import Generator, Tensor
from torch.nn import functional

from initstats.backprop import assert_near_zero, normalize
from initstats.data import Dataset, load_data
from initstats.foundations import experiments, figures  # noqa: F401 (figures enter the catalogue)
from initstats.foundations.clock import timings
from initstats.foundations.draws import repeat_draws
from initstats.foundations.published import PUBLISHED
from initstats.foundations.steps import (
    INPUTS,
    OUTPUTS,
    UNITS,
    Weights,
    backward,
    forward,
    get_data,
    kaiming,
    mse,
    torch_layers,
)
from initstats.stack import exact_numerics

LEVEL = 0.999
"""Level of the intervals: of some twenty published draws, one outside 99% would mean nothing."""
EVERY = 3
"""One validation image in so many is used, which moves a seed's numbers by 2 to 4% of their spread.
The number is odd, because the file's even and odd images differ."""
TIMED = {
    "classes, outer product": "layers as classes",
    "Module, einsum": "Module",
    "Module, matmul": "without einsum",
    "torch": "torch",
}
"""The step of the lesson in which an implementation of `timings` is taught."""
FEW = 500
"""Images that the gradients are compared on."""
Interval = tuple[float, float, float]


class Evidence(NamedTuple):
    """Everything that the lesson's page is made of: what the functions of these names return.

    `draws` is what `repeat_draws` returns.
    """

    lesson: pd.DataFrame
    draws: pd.DataFrame
    timings: pd.DataFrame
    leaks: pd.DataFrame
    deep_means: pd.DataFrame
    defaults: pd.DataFrame


def lesson(seeds: int = 4000, workers: int | None = None) -> pd.DataFrame:
    """Every number of the lesson, measured anew.

    Args:
        seeds: draws of the weights.
        workers: threads that draw; None for one a core.

    Returns:
        One published number a row: `step`, `quantity`, `published` (NaN where nothing was
        printed), our `mean`, `low` and `high`, and `inside`: whether the published number lies
        between them, to its printed digits. For a drawn number, low and high bound the middle
        99.9% of the draws; what is not drawn has one value. `inside` is missing for times (ms:
        median, least and most), which are another machine's, and for rounding errors.
    """
    data = load_data("mnist")
    return _table(_draws(data, seeds, workers), timings(rounds=3))


def measure(seeds: int = 4000, workers: int | None = None) -> Evidence:
    """The lesson's table and all that its figures show; arguments as `lesson`."""
    data = load_data("mnist")
    drawn, timed = _draws(data, seeds, workers), timings(rounds=3)
    few = max(2, seeds // 100)
    with exact_numerics():
        leaks = experiments.leaks(data.valid.x[:: 10 * EVERY], few)
    return Evidence(
        _table(drawn, timed),
        drawn,
        timed,
        leaks,
        experiments.deep_means(data, few),
        experiments.defaults(data, few),
    )


def _draws(data: Dataset, seeds: int, workers: int | None) -> pd.DataFrame:
    return repeat_draws(data.valid.x[::EVERY], seeds, workers or os.cpu_count() or 1)


def _table(draws: pd.DataFrame, timed: pd.DataFrame) -> pd.DataFrame:
    """Each published number with what was measured of its step and quantity."""
    ends = draws.quantile([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    drawn = pd.DataFrame({"mean": draws.mean(), "low": ends.iloc[0], "high": ends.iloc[1]})
    times = timed.assign(
        step=timed["implementation"].map(TIMED), quantity=timed["direction"] + ", ms"
    )
    times = times.dropna(subset="step").set_index(["step", "quantity"])
    times = times[["ms", "ms_low", "ms_high"]].set_axis(drawn.columns, axis=1)
    facts = pd.DataFrame(_facts(), index=drawn.columns).T
    table = pd.DataFrame(PUBLISHED)[["step", "quantity"]]
    table["published"] = [row.value for row in PUBLISHED]
    table = table.join(pd.concat([facts, drawn, times]), on=["step", "quantity"])
    intervals = zip(PUBLISHED, table["low"], table["high"], strict=True)
    inside = [row.inside(low, high) for row, low, high in intervals]
    return table.assign(inside=pd.array(inside, dtype="boolean"))


def _facts() -> dict[tuple[str, str], float | Interval]:
    """The numbers that are not drawn: the data, the shapes, and how right the gradients are."""
    x_train, y_train, x_valid, _ = get_data()
    mean, std = x_train.mean(), x_train.std()
    facts: dict[tuple[str, str], float | Interval] = {
        ("data", "train mean"): float(mean),
        ("data", "train std"): float(std),
    }
    x_train, x_valid = (normalize(x, mean, std) for x in (x_train, x_valid))
    for name, x in (("train", x_train), ("valid", x_valid)):
        facts["normalize", f"{name} mean"] = float(x.mean())
        facts["normalize", f"{name} std"] = float(x.std())
    centred = torch.stack([x_train.mean(), x_train.std() - 1])
    assert_near_zero(centred)
    facts["check", "farthest of mean and std - 1"] = float(centred.abs().max())

    generator = Generator().manual_seed(0)
    w1, w2 = kaiming(INPUTS, UNITS, generator), kaiming(UNITS, OUTPUTS, generator)
    weights = w1, torch.zeros(UNITS), w2, torch.zeros(OUTPUTS)
    facts["architecture", "training images"], facts["architecture", "inputs"] = x_train.shape
    facts["architecture", "hidden units"], facts["architecture", "outputs"] = w2.shape
    x, y = x_train[:FEW], y_train[:FEW].float()
    first = forward(x[:1], *weights)[-1]
    facts["mse", "a batch of one: difference from torch"] = float(
        mse(first, y[:1]) - functional.mse_loss(first, y[:1, None])
    )
    facts["gradients by hand", "largest difference from autograd"] = _farthest(x, y, weights)
    facts["forward timing", "forward, ms"] = _forward_ms(x_valid, weights)
    return facts


def _farthest(x: Tensor, y: Tensor, weights: Weights) -> float:
    """The gradients by functions against autograd's: the largest distance, as a share of a norm."""
    w1, _, w2, _ = weights
    x_hand, w1_hand, b1_hand, w2_hand, b2_hand = backward(x, y, forward(x, *weights), w1, w2)
    net, leaf = torch_layers(*weights), x.clone().requires_grad_()
    loss = functional.mse_loss(net(leaf).squeeze(-1), y)
    by_autograd = torch.autograd.grad(loss, [leaf, *net.parameters()])
    by_hand = (x_hand, w1_hand.t(), b1_hand, w2_hand.t(), b2_hand)
    pairs = zip(by_hand, by_autograd, strict=True)
    return max(float((hand - auto).norm() / auto.norm()) for hand, auto in pairs)


def _forward_ms(x: Tensor, weights: Weights, rounds: int = 10) -> Interval:
    """Median, least and most of a forward pass, after one that does not count."""
    spent = []
    with exact_numerics():
        for _ in range(rounds + 1):
            start = time.process_time()
            forward(x, *weights)
            spent.append(1e3 * (time.process_time() - start))
    return statistics.median(spent[1:]), min(spent[1:]), max(spent[1:])
