"""The lesson's timing table: the same two passes by hand, in four ways, and by torch."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pandas as pd
import torch
from torch import Generator, Tensor
from torch.nn import functional

from initstats.foundations.steps import (
    INPUTS,
    OUTPUTS,
    UNITS,
    Weights,
    backward,
    forward,
    kaiming,
    layers,
    mse,
    torch_layers,
)
from initstats.machine import added_memory
from initstats.stack import exact_numerics

TORCH = "torch"
SLICE, SHARE = 500, 20
Way = Callable[[Tensor, Tensor], Callable[[], object]]
"""A forward pass of samples and labels, which returns the backward pass that belongs to it."""


def timings(samples: int = 50_000, rounds: int = 5) -> pd.DataFrame:
    """Time forward and backward of each implementation of the lesson's network, on one thread.

    The network is 784 - 50 - 1 with a mean squared error; each is asked for the gradients of
    weights, biases and input. They take turns, round by round. Times are of the processor: on an
    idle machine what a clock on the wall shows, and much the same on a busy one.

    The outer products of all samples at once would hold samples x 784 x 50 numbers, 7.8 GB for
    50,000. They are timed on a twentieth of the samples, in slices of 500, and counted twentyfold.

    Args:
        samples: how many pass through.
        rounds: how often each is timed, after a first round that does not count.

    Returns:
        One row for each `implementation` and `direction`: `ms` (median), `ms_low` and `ms_high`
        (least and most); `ratio`, `ratio_low` and `ratio_high`, the same of the time over that of
        torch in the same round; `at_once`, the samples of a slice; `peak_mib`, what a forward and a
        backward pass of a slice add to the memory of the process, in MiB (see `added_memory`).

    Raises:
        ValueError: fewer than one sample or round.
    """
    if min(samples, rounds) < 1:
        raise ValueError(f"timings take samples and rounds: got {samples} and {rounds}")
    generator = Generator().manual_seed(0)
    x = torch.randn(samples, INPUTS, generator=generator)
    y = torch.randint(0, 10, (samples,), generator=generator)
    ways, few = _ways(generator), -(-samples // SHARE)
    slices = {
        name: list(zip(*(torch.split(t[:few], SLICE) for t in (x, y)), strict=True))
        if "outer" in name
        else [(x, y)]
        for name in ways
    }
    spent = []
    with exact_numerics():
        for number in range(rounds + 1):
            for name, way in ways.items():
                scale = 1e3 * samples / (few if "outer" in name else samples)
                for direction, seconds in _timed(way, slices[name]).items():
                    spent.append((name, direction, number, scale * seconds))
        peaks = {name: _peak_mib(way, *slices[name][0]) for name, way in ways.items()}
    table = pd.DataFrame(spent, columns=["implementation", "direction", "round", "ms"])
    table = table[table["round"] > 0]  # the first round warms up
    reference = table[table["implementation"] == TORCH].drop(columns="implementation")
    table = table.merge(reference, on=["direction", "round"], suffixes=("", "_torch"))
    table["ratio"] = table["ms"] / table["ms_torch"]
    grouped = table.groupby(["implementation", "direction"], sort=False)[["ms", "ratio"]]
    summary = grouped.agg(["median", "min", "max"])
    summary.columns = ["ms", "ms_low", "ms_high", "ratio", "ratio_low", "ratio_high"]
    summary = summary.reset_index()
    summary["at_once"] = [len(slices[name][0][0]) for name in summary["implementation"]]
    summary["peak_mib"] = summary["implementation"].map(peaks)
    return summary


def _ways(generator: Generator) -> dict[str, Way]:
    """The implementations, by name."""
    w1, w2 = (kaiming(*shape, generator) for shape in ((INPUTS, UNITS), (UNITS, OUTPUTS)))
    weights: Weights = w1, torch.zeros(UNITS), w2, torch.zeros(OUTPUTS)
    net = torch_layers(*weights)

    def by_functions(x: Tensor, y: Tensor) -> Callable[[], object]:
        passed = forward(x, *weights)
        mse(passed[-1], y)
        return lambda: backward(x, y, passed, w1, w2)

    def by_layers(weight_gradient: str, x: Tensor, y: Tensor) -> Callable[[], object]:
        model = layers(*weights, weight_gradient)
        model(x, y)
        return model.backward

    @torch.enable_grad()
    def by_torch(x: Tensor, y: Tensor) -> Callable[[], object]:
        net.zero_grad()
        output = net(x.detach().requires_grad_())
        return functional.mse_loss(output.squeeze(-1), y.float()).backward

    return {
        "functions, outer product": by_functions,
        "classes, outer product": partial(by_layers, "outer"),
        "Module, einsum": partial(by_layers, "einsum"),
        "Module, matmul": partial(by_layers, "matmul"),
        TORCH: by_torch,
    }


def _timed(way: Way, slices: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Seconds forward and backward over all slices."""
    seconds = {"forward": 0.0, "backward": 0.0}
    for x, y in slices:
        start = time.process_time()
        back = way(x, y)
        between = time.process_time()
        back()
        seconds["backward"] += time.process_time() - between
        seconds["forward"] += between - start
    return seconds


def _peak_mib(way: Way, x: Tensor, y: Tensor) -> float:
    """MiB that the two passes of a slice add to the memory of the process."""
    with suppress(OSError, AttributeError, TypeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)  # memory freed earlier would be used again, uncounted
    return added_memory(lambda: way(x, y)()) * 1e6 / 2**20
