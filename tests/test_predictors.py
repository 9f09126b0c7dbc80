"""Predictors of training: rank correlations and separation by brute force, and their bootstrap."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from initstats.outcome import initial_distances, predictive_power
from initstats.outcome.predictors import (
    PREDICTORS,
    cluster_weights,
    midranks,
    rank_correlation,
    separation,
)
from initstats.outcome.runs import KEYS

INF, NAN = np.inf, np.nan
ALL = np.ones((1, 40))


def study(scales: Mapping[str, tuple[float, ...]], seeds: int = 2, **columns: Any) -> pd.DataFrame:
    """Statistics of activations: (gradient first, gradient last, std, correlation) of each."""
    rows = []
    for (name, numbers), seed, step in itertools.product(scales.items(), range(seeds), (0, 50)):
        first, last, std, correlation = numbers
        run = {"dataset": "mnist", "network": "mlp", "init": "k", "activation": name}
        run |= {"width": 50, "depth": 3, "seed": seed, "step": step} | columns
        for layer, place, direction in itertools.product(
            (3, 1, 2), ("preactivation", "activation"), ("forward", "backward")
        ):
            end = {1: first, 3: last}.get(layer, 5.0)
            value = end if (place, direction) == ("preactivation", "backward") else 9.0
            value = std if (place, direction, layer) == ("activation", "forward", 3) else value
            row = {"layer": layer, "tensor": place, "direction": direction}
            row |= {"std": value if step == 0 else 7.0, "nonfinite": int(np.isinf(value))}
            rows.append(run | row | {"sample_correlation": correlation})
    return pd.DataFrame(rows)


def trained(statistics: pd.DataFrame, accuracies: dict[str, float]) -> pd.DataFrame:
    """The training table of the same runs."""
    runs = statistics[[*KEYS, "seed"]].drop_duplicates()
    accuracy = runs["activation"].map(accuracies)
    table = runs.assign(epoch=1, valid_accuracy=accuracy, valid_loss=1 - accuracy)
    return table.assign(outcome=np.where(accuracy.isna(), "diverged", "trained"))


SCALES = {
    "good": (1.0, 1.0, 1.0, 0.0),
    "vanishing": (0.01, 1.0, 0.5, 0.9),
    "lost": (0.0, 0.0, 0.0, NAN),
    "huge": (INF, INF, INF, NAN),
    "nowhere": (3.0, 1.0, NAN, 0.5),
}
ACCURACY = {"good": 0.98, "vanishing": 0.96, "lost": NAN, "huge": NAN, "nowhere": 0.97}


def test_distances_by_hand() -> None:
    statistics = study(SCALES)
    theory = pd.DataFrame(
        [("k", "good", 0.5), ("k", "good", 2.0), ("k", "lost", 0.0), ("k", "vanishing", 0.81)],
        columns=["init", "activation", "chi_1"],
    )
    table = trained(statistics, ACCURACY)
    names = pd.CategoricalDtype(["unused", *SCALES])
    found = initial_distances(
        statistics.astype({"activation": names}).sample(frac=1, random_state=1), table, theory
    )
    assert len(found) == 10
    at = found[found["seed"] == 1].set_index("activation")
    assert [*at["gradient_ratio"]] == pytest.approx([0, np.log(100), INF, INF, np.log(3)])
    np.testing.assert_allclose(at["std"], [0, np.log(2), INF, INF, NAN])
    np.testing.assert_allclose(at["sample_correlation"], [1, 0.1, 0, NAN, 0.5])
    np.testing.assert_allclose(at["chi_1"], [0, -np.log(0.81), INF, NAN, NAN], atol=1e-12)
    assert [*at["outcome"]] == [0.98, 0.96, -INF, -INF, 0.97]
    assert [*at["failed"]] == [False, False, True, True, False]
    losses = initial_distances(statistics, table, measure="valid_loss")
    assert losses["outcome"].rank().equals(found["outcome"].rank())
    assert losses["chi_1"].isna().all()


def test_gradients_that_were_not_measured_are_unknown() -> None:
    statistics = study(SCALES)
    forward = statistics[statistics["direction"] == "forward"]
    found = initial_distances(forward, trained(statistics, ACCURACY))
    assert found["gradient_ratio"].isna().all()
    assert found["std"].notna().any()


def test_theory_by_depth() -> None:
    statistics = pd.concat([study({"good": (1, 1, 1, 0)}, depth=depth) for depth in (3, 9)])
    theory = pd.DataFrame(
        {"init": "k", "activation": "good", "depth": [3, 9, 9], "chi_1": [2.0, 1.0, NAN]}
    )
    found = initial_distances(statistics, trained(statistics, {"good": 0.9}), theory)
    np.testing.assert_allclose(found["chi_1"], [np.log(2), np.log(2), NAN, NAN])


def test_spearman_is_scipys() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 9, 40).astype(float), rng.normal(0, 1, 40)
    y += x / 3
    y[:5], x[7] = -INF, INF
    rho = rank_correlation(x, y, np.zeros(40), ALL)
    finite = [np.nan_to_num(v, posinf=99, neginf=-99) for v in (x, y)]
    assert rho == pytest.approx(stats.spearmanr(*finite).statistic)
    # a run that is drawn three times is three runs
    weights = rng.integers(0, 4, (6, 40)).astype(float)
    found = rank_correlation(x, y, np.zeros(40), weights)
    for w, one in zip(weights, found, strict=True):
        again = [np.repeat(v, w.astype(int)) for v in finite]
        assert one == pytest.approx(stats.spearmanr(*again).statistic)
    assert np.isnan(rank_correlation(np.full(40, 0.1), y, np.zeros(40), ALL)).all()


def test_ranks_within_groups_see_no_difference_between_them() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat([0.0, 1.0], 20)
    x, y = rng.normal(0, 1, (2, 40))
    inside = rank_correlation(x, y, groups, ALL)
    assert rank_correlation(x + 100 * groups, y - 50 * groups, groups, ALL) == inside
    apart = [stats.spearmanr(x[groups == g], y[groups == g]).statistic for g in (0, 1)]
    assert inside == pytest.approx(np.mean(apart))
    assert rank_correlation(x + 100 * groups, y - 50 * groups, np.zeros(40), ALL) < -0.7


def test_separation_by_brute_force() -> None:
    rng = np.random.default_rng(2)
    x, failed = rng.integers(0, 9, 40).astype(float), (rng.random(40) < 0.3).astype(float)
    x[:3], groups = INF, rng.integers(0, 3, 40).astype(float)
    weights = rng.integers(0, 3, (5, 40)).astype(float)
    for w, found in zip(weights, separation(x, failed, groups, weights), strict=True):
        larger = pairs = 0.0
        for i, j in itertools.product(np.flatnonzero(failed == 1), np.flatnonzero(failed == 0)):
            if groups[i] == groups[j]:
                pairs += w[i] * w[j]
                larger += w[i] * w[j] * ((x[i] > x[j]) + (x[i] == x[j]) / 2)
        assert found == pytest.approx(larger / pairs)
    test = stats.mannwhitneyu(x[failed == 1], x[failed == 0])
    pairs = failed.sum() * (1 - failed).sum()
    assert separation(x, failed, np.zeros(40), ALL) == pytest.approx(test.statistic / pairs)
    assert np.isnan(separation(x, np.zeros(40), groups, ALL)).all()


def test_midranks() -> None:
    values = np.array([3.0, 1.0, INF, 1.0])
    np.testing.assert_allclose(midranks(values, np.ones((1, 4)))[0] + 0.5, [3, 1.5, 4, 1.5])


def distances(rho: float, seed: int, clusters: int = 40, runs: int = 5) -> pd.DataFrame:
    """Runs of variants whose distance and outcome are normal with a correlation, and clustered."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(0, 1, (2, clusters, 1)) + 0.3 * rng.normal(0, 1, (2, clusters, runs))
    y = rho * x + np.sqrt(1 - rho**2) * y
    names = np.repeat([f"a{i}" for i in range(clusters)], runs)
    frame = pd.DataFrame({"activation": names, "seed": np.tile(np.arange(runs), clusters)})
    frame = frame.assign(dataset="mnist", network="mlp", init="k", width=50, depth=2)
    frame = frame.assign(**dict.fromkeys(PREDICTORS, NAN), failed=False, outcome=y.ravel())
    return frame.assign(std=x.ravel())


def test_coverage_of_the_cluster_bootstrap() -> None:
    rho, studies = 0.6, 150
    truth = 6 / np.pi * np.arcsin(rho / 2)  # Pearson (1907), of normal pairs
    covered: dict[str, list[bool]] = {"variants": [], "runs": []}
    for seed in range(studies):
        runs = distances(rho, seed)
        x, y = (runs[name].to_numpy(float) for name in ("std", "outcome"))
        for name, size in {"variants": 5, "runs": 1}.items():
            weights = cluster_weights(np.arange(200.0) // size, 150, seed)
            drawn = rank_correlation(x, y, np.zeros(len(x)), weights)[1:]
            low, high = np.quantile(drawn, [0.025, 0.975])
            covered[name].append(low <= truth <= high)
    # percentiles of 40 clusters are a little too narrow; runs taken one by one far too much
    assert np.mean(covered["variants"]) == pytest.approx(
        0.94, abs=3 * np.sqrt(0.05 * 0.95 / studies)
    )
    assert np.mean(covered["runs"]) < 0.75


def test_power_of_a_study() -> None:
    runs = distances(-0.8, 3)
    runs["failed"] = runs["std"] > 1.0
    runs.loc[runs["failed"], "outcome"] = -INF
    found = predictive_power(runs, draws=300)
    assert len(found) == len(PREDICTORS) * 2 * 3
    row = found[(found["predictor"] == "std") & (found["within"] == "all")].set_index("among")
    assert (row["rho_high"] < -0.5).all()
    assert (row["rho_low"] < row["rho"]).all()
    np.testing.assert_array_equal(row[["auc", "auc_low"]], [[1, 1], [NAN, NAN]])
    assert [*row["runs"]] == [200, 200 - runs["failed"].sum()]
    assert [*row["note"]] == ["", "nobody failed"]
    assert (found[found["predictor"] == "chi_1"]["runs"] == 0).all()
    pd.testing.assert_frame_equal(predictive_power(runs, draws=300), found)


@pytest.mark.parametrize(
    ("change", "number", "note"),
    [
        ({}, "auc", "nobody failed"),
        ({"std": 0.3}, "rho", "the distance is the same in all runs"),
        ({"std": INF}, "rho", "the distance is the same in all runs"),
        ({"outcome": -INF, "failed": True}, "auc", "everybody failed"),
        ({"outcome": 0.5}, "rho", "the outcome is the same in all runs"),
        ({"activation": "one"}, "rho_low", "one variant: no interval"),
        ({"std": NAN}, "rho", "not known for two runs or more"),
    ],
)
def test_degenerate_studies(change: dict[str, Any], number: str, note: str) -> None:
    found = predictive_power(distances(0.5, 4, clusters=12).assign(**change), draws=50)
    row = found[(found["predictor"] == "std") & (found["within"] == "depth")].iloc[0]
    assert np.isnan(row[number])
    assert note in row["note"]


def test_few_variants_and_rare_failures_are_noted() -> None:
    runs = distances(0.5, 5, clusters=4)
    runs["failed"] = (runs["activation"] == "a0") & (runs["seed"] == 0)
    row = predictive_power(runs, draws=100).set_index(["predictor", "among", "within"])
    note = str(row.loc[("std", "all", "all"), "note"])
    assert "4 variants: intervals are rough" in note


def test_what_cannot_be() -> None:
    statistics = study(SCALES)
    table = trained(statistics, ACCURACY)
    with pytest.raises(ValueError, match="lacks the columns step"):
        initial_distances(statistics.drop(columns="step"), table)
    with pytest.raises(ValueError, match="no run of the table has statistics of step 0"):
        initial_distances(statistics[statistics["step"] > 0], table)
    with pytest.raises(ValueError, match="frame of theory's chi_1: it lacks the columns init"):
        initial_distances(statistics, table, pd.DataFrame({"activation": ["good"], "chi_1": [1]}))
    with pytest.raises(ValueError, match="draws must be at least 1"):
        predictive_power(distances(0.5, 0), draws=0)
