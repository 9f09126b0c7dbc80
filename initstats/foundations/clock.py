"""The lesson's timing table: the same two passes by hand, in four ways, and by torch."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Generator, Tensor
from torch.nn import functional

from initstats.foundations.steps import (
    INPUTS,
    OUTPUTS,
    UNITS,
    backward,
    forward,
    kaiming,
    layers,
    mse,
    torch_layers,
)
from initstats.stack import exact_numerics

Weights = tuple[Tensor, Tensor, Tensor, Tensor]
TORCH = "torch"
SLICE, SHARE = 500, 20


@dataclass(frozen=True)
class Implementation:
    """A way to compute the network: ``forward(x, y)``, and ``backward(x, y, passed)`` with what
    forward returned; `sliced` where all samples at once would need too much memory.
    """

    name: str
    forward: Callable[[Tensor, Tensor], Any]
    backward: Callable[[Tensor, Tensor, Any], object]
    sliced: bool = False


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
        backward pass of a slice add to the memory of the process, NaN where the system does not
        tell.

    Raises:
        ValueError: fewer than one sample or round.
    """
    if min(samples, rounds) < 1:
        raise ValueError(f"timings take samples and rounds: got {samples} and {rounds}")
    generator = Generator().manual_seed(0)
    x = torch.randn(samples, INPUTS, generator=generator)
    y = torch.randint(0, 10, (samples,), generator=generator)
    ways = _implementations(generator)
    with exact_numerics():
        spent = [
            (way.name, direction, number, 1e3 * seconds)
            for number in range(rounds + 1)
            for way in ways
            for direction, seconds in _timed(way, x, y).items()
            if number
        ]
        peaks = {way.name: _peak(way, x, y) for way in ways}
    table = pd.DataFrame(spent, columns=["implementation", "direction", "round", "ms"])
    reference = table[table["implementation"] == TORCH].drop(columns="implementation")
    table = table.merge(reference, on=["direction", "round"], suffixes=("", "_torch"))
    table["ratio"] = table["ms"] / table["ms_torch"]
    grouped = table.groupby(["implementation", "direction"], sort=False)[["ms", "ratio"]]
    summary = grouped.agg(["median", "min", "max"])
    summary.columns = ["ms", "ms_low", "ms_high", "ratio", "ratio_low", "ratio_high"]
    at_once = {way.name: min(samples, SLICE) if way.sliced else samples for way in ways}
    return summary.reset_index().assign(
        at_once=lambda rows: rows["implementation"].map(at_once),
        peak_mib=lambda rows: rows["implementation"].map(peaks),
    )


def _implementations(generator: Generator) -> list[Implementation]:
    w1, w2 = (kaiming(*shape, generator) for shape in ((INPUTS, UNITS), (UNITS, OUTPUTS)))
    weights = w1, torch.zeros(UNITS), w2, torch.zeros(OUTPUTS)

    def by_functions(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        passed = forward(x, *weights)
        mse(passed[-1], y)
        return passed

    def by_layers(name: str, weight_gradient: str) -> Implementation:
        def run(x: Tensor, y: Tensor) -> object:
            model = layers(*weights, weight_gradient)
            model(x, y)
            return model

        sliced = weight_gradient == "outer"
        return Implementation(name, run, lambda x, y, model: model.backward(), sliced)

    net = torch_layers(*weights)

    @torch.enable_grad()
    def by_torch(x: Tensor, y: Tensor) -> Tensor:
        net.zero_grad()
        output = net(x.detach().requires_grad_())
        return functional.mse_loss(output.squeeze(-1), y.float())

    return [
        Implementation(
            "functions, outer product",
            by_functions,
            lambda x, y, passed: backward(x, y, passed, w1, w2),
            sliced=True,
        ),
        by_layers("classes, outer product", "outer"),
        by_layers("Module, einsum", "einsum"),
        by_layers("Module, matmul", "matmul"),
        Implementation(TORCH, by_torch, lambda x, y, loss: loss.backward()),
    ]


def _timed(way: Implementation, x: Tensor, y: Tensor) -> dict[str, float]:
    """Seconds forward and backward, of all samples."""
    samples = len(x)
    if way.sliced:
        x, y = x[: -(-samples // SHARE)], y[: -(-samples // SHARE)]
    seconds = {"forward": 0.0, "backward": 0.0}
    for x_slice, y_slice in _slices(way, x, y):
        start = time.process_time()
        passed = way.forward(x_slice, y_slice)
        between = time.process_time()
        way.backward(x_slice, y_slice, passed)
        seconds["backward"] += time.process_time() - between
        seconds["forward"] += between - start
    return {direction: spent * samples / len(x) for direction, spent in seconds.items()}


def _slices(way: Implementation, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    size = SLICE if way.sliced else len(x)
    return [(x[at : at + size], y[at : at + size]) for at in range(0, len(x), size)]


def _peak(way: Implementation, x: Tensor, y: Tensor) -> float:
    """MiB that the two passes of a slice add to the process at their peak."""
    x, y = _slices(way, x, y)[0]
    with suppress(OSError, AttributeError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)  # what was freed earlier would be taken again, unseen
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget earlier peaks
        before = _kib("VmHWM")
        way.backward(x, y, way.forward(x, y))
        return (_kib("VmHWM") - before) / 1024
    except (OSError, LookupError):  # not Linux
        return float("nan")


def _kib(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    if found is None:
        raise LookupError(field)
    return int(found[1])
