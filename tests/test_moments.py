"""Statistics against a one-shot oracle in long double, on data chosen to break streaming."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

import initstats as ist
from initstats.moments import (
    BINS,
    STATISTICS,
    Kernels,
    Moments,
    bin_edges,
    kernels_torch,
    panels,
)
from initstats.moments.histogram import FINITE_BINS, QUANTILES
from initstats.moments.table import FIELDS, Field, Summary, register_statistic

Array = NDArray[Any]
BOTH: list[Kernels] = ["numba", "torch"]
NAN, INF = float("nan"), float("inf")
LARGEST = float(np.finfo(np.float32).max)


# the oracle: every column by its definition, over all entries at once


def mean_and_std(y: Array) -> tuple[Any, Any]:
    """Population; a constant is its own mean."""
    if y.min() == y.max():
        return y[0], y[0] - y[0]
    mean = y.mean()
    reach = abs(y - mean).max()
    return mean, reach * np.sqrt((((y - mean) / reach) ** 2).mean())


def truth(tiles: Sequence[Tensor]) -> dict[str, float]:
    x = torch.cat([tile.double() for tile in tiles], dim=1).numpy().astype(np.longdouble)
    y = x[np.isfinite(x)]
    counts = {"count": x.size, "nonfinite": x.size - y.size, "infinite": int(np.isinf(x).sum())}
    if not y.size:
        return dict.fromkeys(STATISTICS, NAN) | counts
    mean, spread = mean_and_std(y)
    z = (y - mean) / spread if spread > 0 else np.full(len(y), NAN)
    reach = abs(y).max() or 1
    root = reach * np.sqrt(((y / reach) ** 2).mean())
    rows = [mean_and_std(row[np.isfinite(row)]) for row in x if np.isfinite(row).any()]
    unit_mean, unit_std = (np.array(column) for column in zip(*rows, strict=True))
    paired = [row / reach for row in (row[np.isfinite(row)] for row in x) if len(row) > 1]
    own = sum((row**2).sum() for row in paired)
    between = sum((row.sum() ** 2 - (row**2).sum()) / (len(row) - 1) for row in paired)
    judged = [row for row in x if len(row) > 1 and np.isfinite(row).any()]
    with np.errstate(over="ignore", under="ignore"):
        second_moment = np.float64(root) ** 2
    values = counts | {
        "mean": mean,
        "std": spread * np.sqrt(y.size / (y.size - 1)) if y.size > 1 else NAN,
        "second_moment": second_moment,
        "abs_mean": reach * abs(y / reach).mean(),
        "skewness": (z**3).mean(),
        "kurtosis": (z**4).mean() - 3,
        "min": y.min(),
        "max": y.max(),
        "negative_fraction": (y < 0).mean(),
        "zero_fraction": (y == 0).mean(),
        "dead_fraction": np.mean([(row == row[0]).all() for row in judged]) if judged else NAN,
        "unit_mean_std": mean_and_std(unit_mean)[1],
        "unit_std_mean": unit_std.mean(),
        "unit_std_std": mean_and_std(unit_std)[1],
        "sample_correlation": between / own if own > 0 else NAN,
    }
    return {name: float(value) for name, value in values.items()}


def tolerances(true: dict[str, float], tol: float, higher: float) -> dict[str, float]:
    """How far each column may be off; a column that is not named must be exact."""
    spread = np.hypot(true["unit_mean_std"], np.hypot(true["unit_std_mean"], true["unit_std_std"]))
    # float64 keeps sixteen digits of the mean, whatever the spread
    digits = 4e-16 * max(abs(true["min"]), abs(true["max"]))
    tol, higher = (t + (digits / spread if spread > 0 else 0) for t in (tol, higher))
    return {
        "mean": tol * max(abs(true["mean"]), spread),
        "std": tol * true["std"],
        "second_moment": 3 * tol * true["second_moment"],
        "abs_mean": tol * true["abs_mean"],
        "skewness": higher * max(1, abs(true["skewness"])),
        "kurtosis": higher * max(1, abs(true["kurtosis"])),
        "negative_fraction": 1e-15,
        "zero_fraction": 1e-15,
        "unit_mean_std": tol * spread + digits,
        "unit_std_mean": tol * true["unit_std_mean"],
        "unit_std_std": tol * spread,
        "sample_correlation": 3 * tol,
    }


def read(moments: Moments, slot: int = 0) -> dict[str, float]:
    return dict(zip(STATISTICS, moments.statistics()[slot].tolist(), strict=True))


def check(moments: Moments, tiles: Sequence[Tensor], tol: float, higher: float) -> None:
    """Every built-in column against the oracle."""
    seen, true = read(moments), truth(tiles)
    allowed = tolerances(true, tol, higher)
    for name in set(true) - set(QUANTILES):
        a, b = seen[name], true[name]
        close = a == b or (np.isnan(a) and np.isnan(b)) or abs(a - b) <= allowed.get(name, 0)
        assert close, f"{name}: {a!r}, oracle {b!r}, allowed {allowed.get(name, 0):.1e}"
    check_quantiles(seen, tiles)


def check_quantiles(seen: dict[str, float], tiles: Sequence[Tensor]) -> None:
    """Each between the two order statistics that enclose it, to the width of their bins."""
    y = np.sort(torch.cat([tile.double().flatten() for tile in tiles]).numpy())
    y = y[np.isfinite(y)]
    for name, p in QUANTILES.items():
        if not y.size:
            assert np.isnan(seen[name])
            continue
        below = y[max(int(np.ceil(p * y.size - 1e-9)) - 1, 0)]
        above = y[min(int(np.floor(p * y.size + 1e-9)), y.size - 1)]
        low, high = below - resolution(below), above + resolution(above)
        assert max(low, y[0]) <= seen[name] <= min(high, y[-1]), name


def resolution(value: float) -> float:
    """An eighth, but what float32 cannot hold shares the outermost bins, which are open."""
    return max(abs(value) / 8, 2.0**-128) if abs(value) <= LARGEST else INF


# the data: each a list of tiles (units, entries) in float64, cast to what is under test


def tiles_of(*shapes: int, units: int = 3) -> list[tuple[int, int]]:
    return [(units, entries) for entries in shapes]


def sprinkled(rng: np.random.Generator, *values: float) -> list[Array]:
    """Normal numbers, a tenth of them replaced, in tiles that all hold some."""
    tiles = [rng.normal(2, 1, shape) for shape in tiles_of(5000, 40, 3)]
    for tile in tiles:
        tile[rng.random(tile.shape) < 0.1] = rng.choice(values)
        tile.flat[: len(values)] = values
    return tiles


def with_rows(rng: np.random.Generator, *values: float) -> list[Array]:
    """Some rows hold one value throughout, the last one does not."""
    tiles = [rng.normal(size=shape) for shape in tiles_of(1, 5000, 17, units=len(values) + 1)]
    for tile in tiles:
        tile[:-1] = np.array(values)[:, None]
    return tiles


def with_outlier(rng: np.random.Generator) -> list[Array]:
    tiles = [rng.normal(size=shape) for shape in tiles_of(700, 5000)]
    tiles[1][1, 4321] = -1e20
    return tiles


def magnitudes(rng: np.random.Generator) -> list[Array]:
    """Every row, and every tile, on a scale of its own."""
    scale = 10.0 ** np.arange(-30, 31, 6)[:, None]
    return [rng.normal(1, 1, (11, n)) * np.roll(scale, n, axis=0) for n in (1, 30, 4500)]


DATA: dict[str, Callable[[np.random.Generator], list[Array]]] = {
    "unequal_means": lambda rng: [
        rng.normal(mean, 1, shape)
        for mean, shape in zip((-3, 50, 0, 1e3), tiles_of(1, 7, 5000, 333), strict=True)
    ],
    "unequal_spreads": lambda rng: [
        rng.normal(1, std, shape)
        for std, shape in zip((1e-6, 1e6, 1), tiles_of(4097, 2, 600), strict=True)
    ],
    "longer_than_a_block": lambda rng: [rng.normal(1, 2, (1, 3 * 4096 + 1))],
    "one_unit": lambda rng: [rng.normal(size=(1, n)) for n in (1, 1, 100)],
    "thousand_units": lambda rng: [rng.normal(rng.normal(size=(1000, 1)), 1, (1000, 30))],
    "constant_rows": lambda rng: with_rows(rng, 0.1, -3e4, 0.0),
    "constant": lambda rng: [np.full(shape, 0.1) for shape in tiles_of(1, 4097, 30)],
    "constant_beside_normal": lambda rng: [
        rng.normal(size=(3, 5000)) * [[0], [0], [1e25]] + [[1e-37], [3e-20], [0]]
    ],
    "zeros": lambda rng: [np.zeros((3, 50))],
    "constant_but_one": lambda rng: [
        np.where(np.arange(15000).reshape(3, 5000) == 9999, 0.3, 0.1),
        np.full((3, 40), 0.1),
    ],
    "nan": lambda rng: sprinkled(rng, NAN),
    "infinite": lambda rng: sprinkled(rng, INF, -INF),
    "nonfinite": lambda rng: sprinkled(rng, INF, NAN, -INF, -NAN),
    "nonfinite_rows": lambda rng: with_rows(rng, NAN, 1.0, INF, -INF),
    "all_nan": lambda rng: [np.full((3, 40), NAN)],
    "all_infinite": lambda rng: [np.full((3, 40), -INF)],
    "nan_first": lambda rng: [np.full((3, 40), NAN), rng.normal(size=(3, 40))],
    "empty": lambda rng: [np.zeros((3, 0))],
    "some_empty": lambda rng: [rng.normal(size=shape) for shape in tiles_of(0, 40, 0)],
    "one_entry": lambda rng: [np.full((1, 1), -0.7)],
    "one_sample": lambda rng: [rng.normal(size=(50, 1))],
    "two_samples": lambda rng: [rng.normal(size=(50, 1)), rng.normal(size=(50, 1))],
    "signed_zeros": lambda rng: [
        rng.choice([-0.0, 0.0, -1.0, 2.0], shape) for shape in tiles_of(9)
    ],
    "only_signed_zeros": lambda rng: [rng.choice([-0.0, 0.0], (3, 50))],
    "denormal": lambda rng: [rng.normal(size=shape) * 1e-41 for shape in tiles_of(5000, 3)],
    "far_from_zero": lambda rng: [rng.normal(1e4, 1, shape) for shape in tiles_of(5000, 3)],
    "vanishing": lambda rng: [rng.normal(1, 1, shape) * 1e-30 for shape in tiles_of(5000, 3)],
    "exploding": lambda rng: [rng.normal(1, 1, shape) * 1e30 for shape in tiles_of(5000, 3)],
    "brink": lambda rng: [rng.uniform(-1, 1, shape) * LARGEST for shape in tiles_of(5000, 3)],
    "beyond_the_brink": lambda rng: [rng.uniform(0.9, 1.1, (3, 5000)) * LARGEST],
    "tiny_in_float64": lambda rng: [
        rng.normal(1, 1, shape) * 1e-200 for shape in tiles_of(5000, 3)
    ],
    "huge_in_float64": lambda rng: [rng.normal(1, 1, shape) * 1e200 for shape in tiles_of(5000, 3)],
    "constant_rows_in_float64": lambda rng: [
        np.array([[1e200], [-3e200], [0.0]]) * np.ones((3, n)) for n in (1, 40)
    ],
    "constant_then_tiny": lambda rng: [np.full((3, 40), 1e-200), rng.normal(size=(3, 40)) * 1e-200],
    "magnitudes": magnitudes,
    "outlier": with_outlier,
    "heavy_tails": lambda rng: [rng.standard_cauchy(shape) for shape in tiles_of(4096, 5000)],
    "skewed": lambda rng: [rng.exponential(size=shape) ** 6 for shape in tiles_of(4096, 500)],
    "sorted": lambda rng: [np.sort(rng.normal(size=(3, 8192)))],
    "rectified": lambda rng: [rng.normal(size=(3, 5000)).clip(min=0)],
    "two_valued": lambda rng: [np.tile([1.3, 2.7], (3, 4096))],
    "rare": lambda rng: [rng.choice([0.3, 0.9], (3, 8192), p=[0.99, 0.01])],
}
# On the CPU powers of float32 are summed in float32, in short runs: mean and std keep 1e-6. Each
# factor and each term adds a rounding of 6e-8, so the third and fourth moments get room for more.
PRECISIONS: dict[str, tuple[Kernels, torch.dtype, float, float]] = {
    "numba-float32": ("numba", torch.float32, 1e-6, 1e-5),
    "numba-bfloat16": ("numba", torch.bfloat16, 1e-6, 1e-5),
    "numba-float64": ("numba", torch.float64, 1e-12, 1e-10),
    "torch-float16": ("torch", torch.float16, 1e-6, 1e-5),
    "torch-bfloat16": ("torch", torch.bfloat16, 1e-6, 1e-5),
    "torch-float32": ("torch", torch.float32, 1e-6, 1e-5),
    "torch-float64": ("torch", torch.float64, 1e-12, 1e-10),
}


def data(name: str, dtype: torch.dtype) -> list[Tensor]:
    return [torch.from_numpy(tile).to(dtype) for tile in DATA[name](np.random.default_rng(7))]


def measured(tiles: Sequence[Tensor], kernels: Kernels = "numba", every: int = 1) -> Moments:
    moments = Moments(1, len(tiles[0]), kernels=kernels, every=every)
    for tile in tiles:
        moments.add(0, tile)
    return moments


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", DATA)
def test_every_statistic_against_the_oracle(name: str, precision: str) -> None:
    kernels, dtype, tol, higher = PRECISIONS[precision]
    tiles = data(name, dtype)
    check(measured(tiles, kernels), tiles, tol, higher)


@pytest.mark.parametrize("kernels", BOTH)
def test_rounding_does_not_pile_up(kernels: Kernels) -> None:
    # equal terms round the same way each time, and one large term swallows all that follow:
    # float32 sums drift instead of wandering
    rng = np.random.default_rng(0)
    alternating = rng.normal(0, 3, (40, 1)) + rng.uniform(0.5, 1, (40, 1)) * np.tile([-1, 1], 2**15)
    x = np.concatenate([alternating, rng.standard_cauchy((20, 2**16))]).astype(np.float32)
    moments = Moments(len(x), 1, kernels=kernels)
    for slot, row in enumerate(x):
        moments.add(slot, torch.from_numpy(row)[None])
    true = x.astype(np.longdouble)
    mean, std = true.mean(axis=1), true.std(axis=1, ddof=1)
    kurtosis = stats.kurtosis(true, axis=1)
    assert (abs(moments.read("mean") - mean) / np.maximum(abs(mean), std)).max() < 1e-6
    assert abs(moments.read("std") / std - 1).max() < 1e-6
    assert (abs(moments.read("kurtosis") - kurtosis) / np.maximum(1, abs(kurtosis))).max() < 1e-5


@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=60), units=st.integers(1, 4))
def test_any_bits_whatsoever(bits: list[int], units: int) -> None:
    entries = np.array(bits, np.uint32).view(np.float32)
    tile = torch.from_numpy(np.resize(entries, (units, -(-len(bits) // units))))
    check(measured([tile]), [tile], 1e-6, 1e-5)
    check(measured([tile], "torch"), [tile], 1e-6, 1e-5)


@pytest.mark.parametrize("kernels", BOTH)
def test_a_tile_worked_out_by_hand(kernels: Kernels) -> None:
    seen = read(measured([torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])], kernels))
    expected = {
        "count": 6,
        "nonfinite": 0,
        "infinite": 0,
        "mean": 3.5,
        "std": 3.5**0.5,
        "second_moment": 91 / 6,
        "abs_mean": 3.5,
        "skewness": 0,
        "kurtosis": -222 / 175,
        "min": 1,
        "max": 6,
        "negative_fraction": 0,
        "zero_fraction": 0,
        "dead_fraction": 0,
        "unit_mean_std": 1.5,
        "unit_std_mean": (2 / 3) ** 0.5,
        "unit_std_std": 0,
        "sample_correlation": (1 * 2 + 1 * 3 + 2 * 3 + 4 * 5 + 4 * 6 + 5 * 6) / 6 / (91 / 6),
    }
    for name, value in expected.items():
        assert seen[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name


def test_the_oracle_agrees_with_scipy() -> None:
    tiles = data("skewed", torch.float64)
    y, true = torch.cat(tiles, dim=1).numpy().ravel(), truth(tiles)
    assert true["std"] == pytest.approx(np.std(y, ddof=1), rel=1e-12)
    assert true["skewness"] == pytest.approx(stats.skew(y), rel=1e-12)
    assert true["kurtosis"] == pytest.approx(stats.kurtosis(y), rel=1e-12)


# defined answers


@pytest.mark.parametrize("kernels", BOTH)
def test_one_entry_has_no_std(kernels: Kernels) -> None:
    seen = read(measured([torch.tensor([[-0.75]])], kernels))
    undefined = {name for name, value in seen.items() if np.isnan(value)}
    assert undefined == {"std", "skewness", "kurtosis", "dead_fraction", "sample_correlation"}
    assert {seen[name] for name in ("mean", "min", "max", *QUANTILES)} == {-0.75}
    assert seen["abs_mean"] == 0.75


@pytest.mark.parametrize("kernels", BOTH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_constant_has_no_spread_and_no_shape(kernels: Kernels, dtype: torch.dtype) -> None:
    # three times 0.1 is not 0.3
    tiles = [torch.full((3, n), 0.1, dtype=dtype) for n in (3, 5000, 1)]
    seen = read(measured(tiles, kernels))
    assert {name for name, value in seen.items() if np.isnan(value)} == {"skewness", "kurtosis"}
    zero = ("std", "unit_mean_std", "unit_std_mean", "unit_std_std")
    assert {seen[name] for name in zero} == {0.0}
    value = float(tiles[0][0, 0])
    assert {seen[name] for name in ("mean", "abs_mean", "min", "max", *QUANTILES)} == {value}
    assert seen["dead_fraction"] == 1
    assert seen["sample_correlation"] == 1


@pytest.mark.parametrize("kernels", BOTH)
@pytest.mark.parametrize(
    ("tile", "counts"),
    [
        (torch.zeros(3, 0), [0, 0, 0]),
        (torch.full((3, 4), NAN), [12, 12, 0]),
        (torch.full((3, 4), INF), [12, 12, 12]),
    ],
    ids=["empty", "nan", "infinite"],
)
def test_nothing_finite_gives_counts_alone(
    kernels: Kernels, tile: Tensor, counts: list[int]
) -> None:
    for slots in (1, 2):  # a slot without entries, alone and beside one that has some
        moments = Moments(slots, 3, kernels=kernels)
        moments.add(0, tile)
        moments.add(slots - 1, torch.randn(3, 40) if slots == 2 else tile[:, :0])
        values = moments.statistics()[0]
        assert values[:3].tolist() == counts
        assert np.isnan(values[3:]).all()


@pytest.mark.parametrize("kernels", BOTH)
def test_a_unit_is_dead_when_all_its_entries_are_one_value(kernels: Kernels) -> None:
    tile = torch.tensor(
        [
            [0.0, 0.0, 0.0],  # dead
            [-0.0, 0.0, 0.0],  # dead
            [2.5, 2.5, 2.5],  # dead until it differs in the second tile
            [0.0, 0.0, 1e-30],
            [1.0, NAN, 1.0],  # not one value
            [1.0, 1.0, INF],
            [NAN, NAN, NAN],  # nothing to judge
        ]
    )
    assert measured([tile], kernels).read("dead_fraction") == 3 / 6
    last = tile[:, :1].clone()
    last[2] = 2.75
    assert measured([tile, last], kernels).read("dead_fraction") == 2 / 6


@pytest.mark.parametrize("kernels", BOTH)
def test_sample_correlation_is_the_mean_kernel_of_pairs(kernels: Kernels) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(rng.normal(size=(5, 1)), 1, (5, 40))
    pairs = [np.mean(x[:, a] * x[:, b]) for a in range(40) for b in range(40) if a != b]
    for cuts in ([], [1], [3, 30]):
        tiles = list(torch.from_numpy(x).tensor_split(cuts, dim=1))
        seen = read(measured(tiles, kernels))["sample_correlation"]
        assert seen == pytest.approx(np.mean(pairs) / np.mean(x**2), rel=1e-12)


@pytest.mark.parametrize("kernels", BOTH)
def test_sample_correlation_of_units_that_lack_entries(kernels: Kernels) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(rng.normal(size=(6, 1)), 1, (6, 9))
    x[0, 2:] = x[1, 1:] = x[2] = x[3, [0, 4]] = NAN  # a pair, no pair, nothing, 21 pairs
    between = own = 0.0
    for row in x:
        known = row[np.isfinite(row)]
        if len(known) > 1:  # a unit weighs as many times as it has entries, as in q
            pairs = [a * b for i, a in enumerate(known) for j, b in enumerate(known) if i != j]
            between, own = between + len(known) * np.mean(pairs), own + (known**2).sum()
    seen = read(measured([torch.from_numpy(x)], kernels))["sample_correlation"]
    assert seen == pytest.approx(between / own, rel=1e-12)
    constant = np.where(np.isfinite(x), rng.normal(size=(6, 1)), NAN)
    assert read(measured([torch.from_numpy(constant)], kernels))["sample_correlation"] == 1


@pytest.mark.parametrize("kernels", BOTH)
@pytest.mark.parametrize("samples", [2, 3, 16])
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_few_samples_have_the_correlation_of_many(
    kernels: Kernels, samples: int, correlation: float
) -> None:
    draws, units = 400, 50
    generator = torch.Generator().manual_seed(samples)
    shared = torch.randn(draws, units, 1, generator=generator, dtype=torch.float64)
    own = torch.randn(draws, units, samples, generator=generator, dtype=torch.float64)
    moments = Moments(draws, units, kernels=kernels)
    moments.add(slice(0, draws), correlation**0.5 * shared + (1 - correlation) ** 0.5 * own)
    seen = moments.read("sample_correlation")
    assert seen.mean() == pytest.approx(correlation, abs=4 * seen.std() / draws**0.5)
    # the largest that a unit's pairs give is 1, the least -1 / (samples - 1)
    assert seen.max() <= 1
    assert seen.min() >= -1 / (samples - 1)


def test_opposite_samples() -> None:
    x = torch.tensor([[1.0, -1.0], [-3.0, 3.0]])
    assert measured([x]).read("sample_correlation") == pytest.approx(-1, abs=1e-6)
    assert measured([x, x]).read("sample_correlation") == pytest.approx(-1 / 3, abs=1e-6)


@pytest.mark.parametrize("kernels", BOTH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_mean_size_of_two_values(kernels: Kernels, dtype: torch.dtype) -> None:
    # every sum of equal terms rounds the same way: the worst case of a float32 sum
    rng = np.random.default_rng(2)
    for size in (1.1, 1.3, 1.4999999, 1.7e30, 1.9e-30):
        signs = torch.from_numpy(rng.choice([-size, size], (3, 7000))).to(dtype)
        zeros = torch.from_numpy(rng.choice([0, 1, 1, 1], (3, 7000))).to(dtype)
        for x in (signs, signs * zeros):
            seen = measured([x[:, :900], x[:, 900:]], kernels).read("abs_mean")
            assert seen == pytest.approx(float(x.double().abs().mean()), rel=1e-6)


@pytest.mark.parametrize("kernels", BOTH)
def test_mean_size_is_within_what_float64_holds(kernels: Kernels) -> None:
    x = torch.tensor([[1e308, -1.5e308, 0.5e308], [-1e308, NAN, -INF]], dtype=torch.float64)
    assert measured([x], kernels).read("abs_mean") == pytest.approx(1e308, rel=1e-15)
    assert measured([x, x], kernels).read("abs_mean") == pytest.approx(1e308, rel=1e-15)
    assert measured([1e-300 * x], kernels).read("abs_mean") == pytest.approx(1e8, rel=1e-15)


# tiles and merges


def parts_of(x: Tensor, cuts: Sequence[int]) -> list[Tensor]:
    return list(torch.tensor_split(x, sorted(cuts), dim=1))


def merged(parts: Sequence[Moments]) -> Moments:
    total = Moments(1, parts[0].units.shape[1], kernels=parts[0].kernels)
    for part in parts:
        total.merge(part)
    return total


def adversary(seed: int) -> Tensor:
    """(4, 600) float64: drifting means on a far offset, a constant row, some NaN and infinities."""
    rng = np.random.default_rng(seed)
    drift = rng.normal(size=600).cumsum() + 10.0 ** rng.uniform(-3, 4)
    x = (rng.normal(size=(4, 600)) + drift) * 10.0 ** rng.uniform(-25, 25)
    x[1] = x[1, 0]
    x[2, rng.integers(600, size=5)] = [NAN, NAN, INF, -INF, 0.0]
    return torch.from_numpy(x)


SEEDS, CUTS = st.integers(0, 2**32), st.lists(st.integers(0, 600), max_size=12)


@settings(max_examples=50)
@given(seed=SEEDS, cuts=CUTS, order=st.randoms(use_true_random=False))
def test_tiles_and_merges_in_any_order_equal_one_shot(
    seed: int, cuts: list[int], order: Any
) -> None:
    x = adversary(seed)
    tiles = parts_of(x, cuts)
    order.shuffle(tiles)
    for kernels in BOTH:
        check(measured(tiles, kernels), [x], 1e-12, 1e-10)
    parts = [measured([tile], order.choice(BOTH)) for tile in tiles]
    middle = order.randint(1, len(parts))
    total = merged([merged(parts[:middle]), *parts[middle:]])
    check(total, [x], 1e-12, 1e-10)
    assert torch.equal(total.histogram, measured([x]).histogram)


@given(seed=SEEDS, cuts=CUTS, order=st.randoms(use_true_random=False))
def test_merging_float32_parts_is_exact_in_any_order(
    seed: int, cuts: list[int], order: Any
) -> None:
    parts = [measured([tile]) for tile in parts_of(adversary(seed).float(), cuts)]
    before = read(merged(parts))
    order.shuffle(parts)
    after = read(merged(parts))
    # digits: a part of equal float32 entries far from zero leaves more than twelve to lose
    for name, allowed in tolerances(before, 1e-12, 1e-10).items():
        assert abs(after[name] - before[name]) <= allowed, name
    rest = set(STATISTICS) - set(tolerances(before, 0, 0))
    assert {name: after[name] for name in rest} == {name: before[name] for name in rest}


@pytest.mark.parametrize("kernels", BOTH)
def test_an_empty_part_changes_no_bit(kernels: Kernels) -> None:
    moments = measured(data("unequal_means", torch.float32), kernels)
    units, histogram = moments.units.clone(), moments.histogram.clone()
    moments.merge(Moments(1, 3))
    moments.add(0, torch.zeros(3, 0))
    other = Moments(1, 3)
    other.merge(moments)
    for each in (moments, other):
        assert torch.equal(each.units, units)
        assert torch.equal(each.histogram, histogram)


@pytest.mark.parametrize("kernels", BOTH)
def test_slots_do_not_see_each_other(kernels: Kernels) -> None:
    tiles = data("unequal_means", torch.float32)
    moments = Moments(len(tiles), 3, kernels=kernels)
    for slot, tile in reversed(list(enumerate(tiles))):
        moments.add(slot, tile)
    alone = np.concatenate([measured([tile], kernels).statistics() for tile in tiles])
    np.testing.assert_array_equal(moments.statistics(), alone)


@pytest.mark.parametrize("kernels", BOTH)
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.T,
        lambda x: x[:, ::3],
        lambda x: x.flip(1)[:, 5:],
        lambda x: x[:, :1].expand(-1, 9),
        lambda x: x.clone().requires_grad_(),
    ],
    ids=["transposed", "strided", "flipped", "expanded", "requires_grad"],
)
def test_any_layout_in_memory(kernels: Kernels, view: Callable[[Tensor], Tensor]) -> None:
    tile = view(torch.from_numpy(np.random.default_rng(0).normal(size=(60, 50))))
    before = tile.detach().clone()
    plain = measured([before.contiguous()], kernels)
    np.testing.assert_array_equal(measured([tile], kernels).statistics(), plain.statistics())
    assert torch.equal(tile, before)


@pytest.mark.parametrize("precision", ["numba-float32", "numba-bfloat16", "numba-float64"])
@pytest.mark.parametrize(
    ("units", "entries", "part", "every"),
    [
        (300, 60, slice(None), 1),  # several panels beside each other
        (300, 60, slice(None), 150),
        (12, 1603, slice(None), 3),  # several one after the other
        (150, 150, slice(7, 140), 1),  # a part of a wider tensor, as packed queries are
    ],
)
def test_units_beside_each_other(
    units: int, entries: int, part: slice, precision: str, every: int
) -> None:
    kernels, dtype, tol, higher = PRECISIONS[precision]
    rng = np.random.default_rng(units)
    x = rng.normal(rng.normal(size=units), 2, (entries, units))
    x[:3, -12:-1] = np.array([NAN, INF, -INF])[:, None]
    x[:, -1], x[::2, -2] = 4.0, 0.0
    tile = torch.from_numpy(x).to(dtype)[:, part].T
    assert panels.lies_across(tile)
    moments, rows = (measured([y], kernels, every) for y in (tile, tile.contiguous()))
    assert torch.equal(moments.histogram, rows.histogram)
    if every == 1:
        check(moments, [tile], tol, higher)
    else:
        np.testing.assert_allclose(moments.statistics(), rows.statistics(), rtol=10 * higher)


# the two sets of kernels


@pytest.mark.parametrize("every", [1, 3, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", DATA)
def test_kernels_agree(name: str, dtype: torch.dtype, every: int) -> None:
    tiles = data(name, dtype)
    a, b = (measured(tiles, kernels, every) for kernels in BOTH)
    assert torch.equal(a.histogram, b.histogram)
    rounded = ("scale", "mean", "m2", "m3", "m4", "abs")
    exact = [FIELDS.index(field) for field in FIELDS if field not in rounded]
    assert torch.equal(a.units[..., exact], b.units[..., exact])


@pytest.fixture
def flush_denormal() -> Iterator[None]:
    before = torch.full((1,), 1e-41).mul(1.0).item() == 0.0
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    yield
    torch.set_flush_denormal(before)


@pytest.mark.usefixtures("flush_denormal")
@pytest.mark.parametrize("kernels", BOTH)
def test_flushed_denormals_are_zeros(kernels: Kernels) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(1, 2**23, (3, 5000)).astype(np.uint32)
    bits[0, ::2] |= np.uint32(1 << 31)
    tile = torch.from_numpy(bits.view(np.float32).copy())
    seen = read(measured([tile], kernels))
    assert seen["zero_fraction"] == seen["dead_fraction"] == 1
    assert seen["negative_fraction"] == seen["std"] == seen["min"] == seen["max"] == 0
    tile[:, ::5] = torch.from_numpy(rng.normal(size=(3, 1000)))
    zeros = torch.where(tile.abs() > 1e-30, tile, 0.0)
    seen, expected = read(measured([tile], kernels)), read(measured([zeros], kernels))
    for name in set(STATISTICS) - set(QUANTILES):
        assert seen[name] == pytest.approx(expected[name], rel=1e-12, abs=1e-12), name


def test_torch_kernels_never_wait_for_the_host() -> None:
    # a meta tensor has no values, so anything that would read one raises
    moments = Moments(2, 3, kernels="torch", device="meta", every=8)
    moments.add(1, torch.empty(3, 50, device="meta", dtype=torch.float64))
    moments.merge(moments)
    assert moments.units.is_meta


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_torch_kernels_take_many_slots_at_once(dtype: torch.dtype) -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 50))).to(dtype)
    apart, together = Moments(2, 3, kernels="torch"), Moments(2, 3, kernels="torch")
    for _ in range(2):
        kernels_torch.add(together.units, together.histogram, x, 8)
        for slot in range(2):
            kernels_torch.add(apart.units[slot], apart.histogram[slot], x[slot], 8)
    assert torch.equal(together.histogram, apart.histogram)
    np.testing.assert_allclose(together.statistics(), apart.statistics(), rtol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_another_device() -> None:
    for name in DATA:
        tiles = data(name, torch.float32)
        moments = Moments(1, len(tiles[0]), kernels="torch", device="cuda")
        for tile in tiles:
            moments.add(0, tile.cuda())
        check(moments, tiles, 1e-12, 1e-10)


# the histogram


def test_bin_edges_ascend_without_gaps() -> None:
    low, high = bin_edges()
    assert low.shape == high.shape == (BINS,)
    np.testing.assert_array_equal(low, -high[::-1])
    assert (low[:-1] <= low[1:]).all()
    assert (low <= high).all()
    low, high = low[FINITE_BINS][BINS // 2 - 7 :], high[FINITE_BINS][BINS // 2 - 7 :]
    np.testing.assert_array_equal(high[:-1], low[1:])
    assert low[0] == 2.0**-129
    assert low[-1] == 1.875 * 2.0**127
    normal = slice(8, -1)  # beyond the denormals, before the last, which is open
    assert (high[normal] <= 1.125 * low[normal]).all()


@pytest.mark.parametrize("kernels", BOTH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_value_is_in_its_bin(kernels: Kernels, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(2, 4000)) * 10.0 ** rng.uniform(-44, 38, (2, 4000))).astype(np.float32)
    x[0, :4] = 1.0, 1.125, -1.125, -1.0  # edges belong to the bin further from zero
    seen = measured([torch.from_numpy(x).to(dtype)], kernels).histogram[0].numpy()
    for k, (low, high) in enumerate(zip(*bin_edges(), strict=True)):
        if low == high:
            inside = (abs(x) < 2.0**-129) & (np.signbit(x) == (k < BINS // 2))
        elif low < 0:
            inside = (low < x) & (x <= high)
        else:
            inside = (low <= x) & (x < high)
        assert seen[k] == inside.sum() or not np.isfinite([low, high]).any(), (k, low, high)
    assert seen.sum() == x.size


@pytest.mark.parametrize("kernels", BOTH)
def test_finite_values_stay_finite(kernels: Kernels) -> None:
    values = [1e39, -1e300, 3.5e38, LARGEST, INF, -INF, NAN, 1e-300]
    tile = torch.tensor([values], dtype=torch.float64)
    counts = measured([tile], kernels).histogram[0]
    inside = counts[FINITE_BINS]
    assert [int(n) for n in (counts.sum(), inside.sum(), inside[0], inside[-1])] == [8, 5, 1, 3]


@pytest.mark.parametrize("kernels", BOTH)
@pytest.mark.parametrize("cuts", [[], [1, 2, 3, 4], [5, 5, 17, 40], list(range(1, 64))], ids=str)
def test_every_eighth_entry_of_every_unit_however_tiled(kernels: Kernels, cuts: list[int]) -> None:
    # entry j of unit u is alone in bin 64 u + j
    edges = bin_edges()[0][BINS // 2 + 100 :][: 16 * 64].reshape(16, 64)
    tiles = parts_of(torch.from_numpy(edges).float(), cuts)
    moments = measured(tiles, kernels, every=8)
    seen = moments.histogram[0, BINS // 2 + 100 :][: 16 * 64].reshape(16, 64).numpy()
    unit, entry = np.indices((16, 64))
    np.testing.assert_array_equal(seen, np.where(entry % 8 == unit % 8, 8, 0))
    assert moments.histogram.sum() == moments.read("count")


@pytest.mark.parametrize("kernels", BOTH)
def test_the_histogram_holds_what_was_taken_and_is_finite(kernels: Kernels) -> None:
    tiles = data("nonfinite", torch.float32)
    x = torch.cat(tiles, dim=1).numpy()
    unit, entry = np.indices(x.shape)
    taken = entry % 8 == unit % 8
    counts = measured(tiles, kernels, every=8).histogram[0]
    assert counts[FINITE_BINS].sum() == 8 * (taken & np.isfinite(x)).sum()
    assert counts.sum() == 8 * taken.sum()


SMOOTH = {
    "normal": stats.norm(),
    "shifted": stats.norm(2, 1),
    "negative": stats.norm(-1, 1),
    "uniform": stats.uniform(-1, 2),
    "exponential": stats.expon(),
    "laplace": stats.laplace(),
    "logistic": stats.logistic(),
    "gamma": stats.gamma(2),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_quantiles_of_smooth_densities(name: str) -> None:
    density = SMOOTH[name]
    n = 100_000
    x = torch.from_numpy(density.ppf((np.arange(n) + 0.5) / n))[None]
    true = density.ppf(list(QUANTILES.values()))
    for scale in np.geomspace(1, 2, 9):  # the bins repeat from octave to octave
        seen = read(measured([scale * x]))
        error = np.array([seen[q] for q in QUANTILES]) / scale - true
        assert abs(error).max() < 0.01 * density.std()


def test_quantiles_beside_a_jump_of_the_density() -> None:
    # a fifth at a point, the rest rising gently on (1, 2): the slope must not reach over the edge
    x = torch.cat([torch.full((2000,), -1.0), (1 + 3 * torch.linspace(0, 1, 8000)).sqrt()])[None]
    true = (1 + 3 * 0.05 / 0.8) ** 0.5
    assert measured([x]).read("q25") == pytest.approx(true, abs=0.025 * (1.125 - 1))


# the table


def test_columns_are_those_promised() -> None:
    promised = """count nonfinite infinite mean std second_moment abs_mean skewness kurtosis min
        max negative_fraction zero_fraction dead_fraction unit_mean_std unit_std_mean unit_std_std
        sample_correlation q01 q05 q25 q50 q75 q95 q99"""
    assert list(STATISTICS) == promised.split()
    whole = {name for name, entry in STATISTICS.items() if entry.integer}
    assert whole == {"count", "nonfinite", "infinite"}
    for name, entry in STATISTICS.items():
        assert entry.name == name
        assert entry.meaning
        assert "\n" not in entry.meaning


def test_a_statistic_is_added_by_one_definition() -> None:
    def peak(s: Summary) -> Array:
        """largest magnitude"""
        return np.maximum(s.max, -s.min)

    moments = measured([torch.tensor([[1.0, -3.0]])])
    try:
        register_statistic()(peak)
        assert STATISTICS["peak"].meaning == "largest magnitude"
        assert moments.read("peak") == 3
        assert moments.statistics().shape == (1, len(STATISTICS))
        peak.__module__ = "elsewhere"
        with pytest.raises(ValueError, match="'peak' is registered already"):
            register_statistic()(peak)
    finally:
        STATISTICS.remove("peak")
    with pytest.raises(ValueError, match="unknown statistic 'peak'"):
        moments.read("peak")


@pytest.fixture
def own_fields() -> Iterator[None]:
    """Two statistics that each bring a field: a sum, and an extreme."""

    @register_statistic(field=Field(lambda x: (x.abs() > 1).sum(-1)))
    def beyond_one(s: Summary) -> Array:
        """share of entries beyond -1 or 1"""
        return s.total("beyond_one") / s.count

    @register_statistic(field=Field(lambda x: x.abs().amax(-1), torch.maximum, start=-INF))
    def largest(s: Summary) -> Array:
        """largest magnitude"""
        return np.asarray(s.unit("largest").max(axis=1))

    yield
    for name in ("beyond_one", "largest"):
        STATISTICS.remove(name)


@pytest.mark.usefixtures("own_fields")
@pytest.mark.parametrize("kernels", BOTH)
def test_a_statistic_may_bring_a_field_of_its_own(kernels: Kernels) -> None:
    rng = np.random.default_rng(0)
    tiles = [torch.from_numpy(rng.normal(size=(2, 3, n))) for n in (40, 2, 700)]
    many = Moments(2, 3, kernels=kernels)
    for tile in tiles:
        many.add(slice(0, 2), tile)
    for slot in range(2):
        whole = torch.cat(tiles, dim=-1)[slot].abs()
        parts = merged([measured([tile[slot]], kernels) for tile in tiles])
        for moments, place in ((many, slot), (parts, 0)):
            assert moments.read("largest")[place] == whole.max()
            assert moments.read("beyond_one")[place] == pytest.approx(
                float((whole > 1).double().mean())
            )
        check(parts, [tile[slot] for tile in tiles], 1e-12, 1e-10)


def test_a_field_is_kept_from_its_registration_on(request: pytest.FixtureRequest) -> None:
    tile = torch.tensor([[1.0, -3.0]])
    before = measured([tile])
    request.getfixturevalue("own_fields")
    assert np.isnan(before.read("beyond_one"))
    assert before.read("mean") == -1
    assert measured([tile]).read("beyond_one") == 0.5
    with pytest.raises(ValueError, match=r"fields .*'beyond_one'.* cannot be merged into"):
        before.merge(measured([tile]))


def test_a_field_that_does_not_fit() -> None:
    def count(s: Summary) -> Array:
        """a name that is taken"""
        return s.total("count")

    with pytest.raises(ValueError, match="'count' is a field already: rename the statistic"):
        register_statistic(field=Field(torch.sum))(count)

    def whole(s: Summary) -> Array:
        """a sum over units"""
        return s.total("wohle")

    register_statistic(field=Field(torch.sum))(whole)
    try:
        with pytest.raises(ValueError, match=r"'whole' has shape \(\), \(3,\) is expected"):
            measured([torch.ones(3, 5)])
        with pytest.raises(ValueError, match="unknown field 'wohle': did you mean 'whole'"):
            Moments(1, 3).statistics()
    finally:
        STATISTICS.remove("whole")


@pytest.mark.usefixtures("own_fields")
def test_a_study_and_a_model_keep_the_field(toy: ist.Dataset) -> None:
    grid = ist.Grid(inits=["kaiming_normal"], activations=["tanh"], widths=[10], depth=2, seeds=1)
    table = ist.run_sweep(grid, toy)
    tanh = table[table["tensor"] == "activation"]
    assert (tanh["beyond_one"] == 0).all()
    np.testing.assert_allclose(tanh["largest"], np.maximum(tanh["max"], -tanh["min"]))
    model, x = torch.nn.Linear(64, 20), torch.randn(30, 64)
    row = ist.measure(model, x).query("op == 'linear'").iloc[0]
    assert row["beyond_one"] == pytest.approx(float((model(x).abs() > 1).double().mean()))


def test_reading_the_table_needs_no_torch() -> None:
    code = "import sys; from initstats.moments import bin_edges, STATISTICS; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    root = Path(ist.__file__).parents[1]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert not {"torch", "numba"} & set(result.stdout.split())


# bad input


@pytest.mark.parametrize("kernels", BOTH)
def test_a_tile_that_does_not_fit(kernels: Kernels) -> None:
    moments = Moments(2, 3, kernels=kernels)
    for shape in [(3,), (4, 5), (2, 3, 5), ()]:
        with pytest.raises(ValueError, match=r"shape .* was given, \(3, entries\) is expected"):
            moments.add(0, torch.zeros(shape))
    for dtype in (torch.int64, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match=rf"{dtype} was given, floats are expected"):
            moments.add(0, torch.zeros(3, 5, dtype=dtype))
    with pytest.raises(IndexError):
        moments.add(2, torch.zeros(3, 5))
    assert moments.histogram.sum() == 0


def test_settings_that_make_no_sense() -> None:
    for name in ("slots", "units", "every"):
        sizes: Any = {"slots": 1, "units": 1} | {name: 0}
        with pytest.raises(ValueError, match=f"{name}=0 was given, 1 or more is expected"):
            Moments(**sizes)
    with pytest.raises(ValueError, match="unknown kernels 'tourch': did you mean 'torch'"):
        Moments(1, 1, kernels="tourch")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="numba kernels run on the CPU, not on meta"):
        Moments(1, 1, device="meta")
    with pytest.raises(ValueError, match="unknown statistic 'men': did you mean 'mean'"):
        Moments(1, 1).read("men")
    with pytest.raises(ValueError, match=r"\(2, 3\) cannot be merged into \(1, 3\)"):
        Moments(1, 3).merge(Moments(2, 3))
