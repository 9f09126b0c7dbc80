"""Two ways to the same numbers: how far they may differ, and which may not by a single bit."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from time import sleep
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import initstats as ist
from initstats import activations, inits
from initstats.moments import STATISTICS, Kernels
from initstats.moments.histogram import QUANTILES
from initstats.networks import get
from initstats.stack import Result, Settings, products, run_stack
from initstats.stack.products import Product, fastest_product
from initstats.stack.products import product as multiply

Array = NDArray[np.float64]

NAMES = ("relu", "general_relu", "softplus")
SETTINGS = Settings(depth=8, samples=500, tile=2**14, histogram_every=1)
"""Every entry is binned: which one in eight it would be depends on a conv net's tiles."""

TOLERANCES = dict.fromkeys(STATISTICS, 1e-6)
TOLERANCES |= dict.fromkeys(("count", "nonfinite", "infinite"), 0.0)
TOLERANCES |= dict.fromkeys(("min", "max"), 1e-5)
TOLERANCES |= dict.fromkeys(("skewness", "kurtosis"), 2e-5)
TOLERANCES |= dict.fromkeys(("negative_fraction", "zero_fraction", "dead_fraction"), 1e-3)
TOLERANCES |= dict.fromkeys(QUANTILES, 1e-3)
"""By how much kernels, tiles and products may change a statistic: what has the tensor's unit, in
stds of it; the second moment, relative to itself; shares and shape as they are. An extreme is one
entry, whose rounding nothing averages; shares and quantiles move in steps, of an entry that
rounding carries over zero or over a bin's edge."""
IN_STDS = {
    "mean",
    "std",
    "min",
    "max",
    "unit_mean_std",
    "unit_std_mean",
    "unit_std_std",
    *QUANTILES,
}

KERNELS = [kernels for kernels in get_args(Kernels) if kernels != "off"]
PATHS: dict[str, dict[str, Any]] = {
    f"{kernels} kernels, tiles of {tile}": {"kernels": kernels, "tile": tile}
    for kernels, tile in product(KERNELS, (2**11, 2**14, 2**18))
}
PATHS |= {
    f"product by {name}, {seeds} seeds": {"product": name, "batch": seeds}
    for name, seeds in product(get_args(Product), (1, 3))
}
PATHS |= {f"{kernels} kernels, 3 seeds": {"kernels": kernels, "batch": 3} for kernels in KERNELS}
"""Changes of the settings that may change the last digits."""


def run(
    data: ist.Dataset, network: str, settings: Settings, names: tuple[str, ...] = NAMES
) -> list[Result]:
    entries = [activations.get(name) for name in names]
    width = 40 if network == "mlp" else 6
    split, init = data.valid.first(settings.samples), inits.get("kaiming_normal")
    placed = get(network).on(split.shape, width, settings.depth)
    return list(run_stack(placed, init, entries, [5], split, None, settings))


def unit(name: str, result: Result) -> Array:
    """What the tolerance of a statistic is measured in, (rows,)."""
    values: dict[str, Array] = dict(zip(STATISTICS, result.statistics.T, strict=True))
    if name == "second_moment":
        return values[name]
    return values["std"] if name in IN_STDS else np.ones(len(values["std"]))


def assert_near(one: Result, other: Result) -> None:
    for index, (name, tolerance) in enumerate(TOLERANCES.items()):
        gap = np.abs(one.statistics - other.statistics)[:, index] / unit(name, other)
        assert (gap <= tolerance).all(), f"{name}: {gap.max():.1e} beyond {tolerance:.1e}"
    totals = other.histograms.sum(axis=1)
    assert (one.histograms.sum(axis=1) == totals).all()
    moved = np.abs(one.histograms - other.histograms).sum(axis=1)
    assert (moved <= 2e-3 * totals).all(), f"histograms: {(moved / totals).max():.1e} moved"


@pytest.fixture(scope="module")
def reference(mnist: ist.Dataset) -> dict[tuple[str, bool], list[Result]]:
    """Of the default path."""
    both = product(("mlp", "cnn"), (False, True))
    return {(network, backward): run(mnist, network, sized(backward)) for network, backward in both}


def sized(backward: bool) -> Settings:
    return replace(SETTINGS, depth=4, samples=200, backward=True) if backward else SETTINGS


@pytest.mark.sampled(every=6)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize("changes", PATHS.values(), ids=PATHS)
def test_paths_differ_by_rounding_alone(
    mnist: ist.Dataset,
    reference: dict[tuple[str, bool], list[Result]],
    network: str,
    backward: bool,
    changes: dict[str, Any],
) -> None:
    if changes.get("product") == "onednn" and not has_onednn():
        pytest.skip("this torch has no oneDNN product for this processor")
    results = run(mnist, network, replace(sized(backward), **changes))
    for one, other in zip(results, reference[network, backward], strict=True):
        assert_near(one, other)


def has_onednn() -> bool:
    try:
        multiply("onednn", torch.ones(2, 3), torch.ones(3, 4))
    except (AttributeError, RuntimeError):
        return False
    return True


def test_the_fastest_product_is_one_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fastest_product() in (("torch", "onednn") if has_onednn() else ("torch",))
    for gone in (AttributeError("no such operator"), RuntimeError("not on this processor")):
        assert probed(monkeypatch, {"torch": 0.0, "onednn": gone}) == "torch"
    assert probed(monkeypatch, {"torch": 0.005, "onednn": 0.0}) == "onednn"
    assert probed(monkeypatch, {"torch": 0.0, "onednn": 0.005}) == "torch"
    assert probed(monkeypatch, {"torch": 0.005, "onednn": 0.0}, wrong=1e-3) == "torch"
    assert probed(monkeypatch, {"torch": 0.005, "onednn": 0.0}, wrong=math.nan) == "torch"


def probed(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float | Exception], wrong: float = 0.0
) -> str:
    """Which product a probe prefers, where they take so long and oneDNN's is so wrong."""

    def slow(name: str, matrix: Tensor, x: Tensor) -> Tensor:
        if isinstance(wait := seconds[name], Exception):
            raise wait
        sleep(wait)
        return torch.full((2, 2), wrong if name == "onednn" else 0.0)

    monkeypatch.setattr(products, "product", slow)
    return products.fastest_product.__wrapped__()


@pytest.mark.parametrize("name", STATISTICS)
def test_more_than_the_tolerance_is_seen(
    reference: dict[tuple[str, bool], list[Result]], name: str
) -> None:
    result = reference["mlp", False][0]
    changed = result.statistics.copy()
    step = (1.01 * TOLERANCES[name] + 1e-9) * unit(name, result)[-1]
    changed[-1, list(STATISTICS).index(name)] += step
    with pytest.raises(AssertionError, match=f"^{name}: "):
        assert_near(result._replace(statistics=changed), result)


# what must not matter


@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize("kernels", KERNELS)
def test_activations_share_without_a_trace(
    mnist: ist.Dataset, network: str, kernels: Kernels
) -> None:
    settings = replace(SETTINGS, depth=3, samples=100, tile=2**10, kernels=kernels, backward=True)
    together = run(mnist, network, settings)
    for name, result in zip(NAMES, together, strict=True):
        (alone,) = run(mnist, network, settings, (name,))
        assert alone.statistics.tobytes() == result.statistics.tobytes()
        assert (alone.histograms == result.histograms).all()


def test_order_and_threads_leave_no_trace(toy: ist.Dataset) -> None:
    lists: dict[str, list[Any]] = {
        "inits": ["kaiming_normal", "matched", "lsuv"],
        "activations": ["relu", "gelu", "tanh"],
        "widths": [8, 5],
        "seeds": [0, 1],
    }
    backwards = {name: values[::-1] for name, values in lists.items()}
    one = ist.run_sweep(ist.Grid(**lists, depth=4, backward=True), toy)
    grid = ist.Grid(**backwards, depth=4, backward=True)
    with ThreadPoolExecutor(2) as executor:
        two = ist.run_sweep(grid, toy, executor=executor)
    assert bits(one) == bits(two)
    assert len(bits(one)) == len(one) == 3 * 3 * 2 * 2 * 4 * 4


def bits(table: pd.DataFrame) -> dict[tuple[Any, ...], bytes]:
    """The statistics of each row to the last bit, by its key."""
    keys = table.columns[: table.columns.get_loc("count")]
    values = table[list(STATISTICS)].to_numpy(np.float64)
    rows = table[keys].itertuples(index=False, name=None)
    return {key: row.tobytes() for key, row in zip(rows, values, strict=True)}
