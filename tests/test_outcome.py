"""Comparisons of variants over paired seeds, against closed forms, enumeration and chance."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

import initstats as ist
from initstats.outcome import VERDICTS
from initstats.outcome.paired import (
    discordant,
    holm,
    holm_levels,
    paired_t,
    rank_equivalence,
    seeds_for_difference,
    seeds_for_equivalence,
    seeds_for_failures,
    seeds_for_ranks,
    signed_ranks,
    t_equivalence,
)
from initstats.outcome.runs import KEYS

INF, NAN = np.inf, np.nan
SEEDS = Path(__file__).with_name("training_seeds.csv")


def training(
    values: dict[tuple[str, str], list[float]], *, first: int = 0, **columns: Any
) -> pd.DataFrame:
    """A training table: final validation accuracies of (activation, init), NaN for divergence."""
    names = {"dataset": "mnist", "network": "mlp", "width": 50, "depth": 2, "lr": 0.1}
    nothing = {"test_loss": NAN, "test_accuracy": NAN}
    rows = [
        names
        | nothing
        | {"activation": activation, "init": init, "seed": first + seed}
        | {"epoch": epoch, "step": 100 * epoch, "train_loss": 1 - value, "valid_loss": 1 - value}
        | {"valid_accuracy": value if epoch == 2 else 0.5}
        | {"steps_to_target": 1000 * (1 - value) if epoch == 2 else NAN}
        | {"outcome": "diverged" if np.isnan(value) else "trained" if value > 0.2 else "chance"}
        | columns
        for (activation, init), accuracies in values.items()
        for seed, value in enumerate(accuracies)
        for epoch in (1, 2)
    ]
    return pd.DataFrame(rows)


def noisy(count: int, shift: float = 0.0, own: int = 1, spread: float = 0.001) -> list[float]:
    """Accuracies whose noise is shared by seed, and some of a variant's own."""
    shared, alone = np.random.default_rng(0), np.random.default_rng(own)
    noise = shared.normal(0, 0.002, count) + alone.normal(0, spread, count)
    return [*(0.97 + shift + noise)]


def one(values: dict[str, list[float]], **options: Any) -> dict[str, Any]:
    """The single comparison of two activations."""
    found = ist.summarize_training(training({(a, "k"): v for a, v in values.items()}), **options)
    assert len(found) == 1
    return {str(name): value for name, value in found.iloc[0].items()}


# --- the arithmetic


def test_t_is_scipys_and_textbooks() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (2, 7, 9))
    found, test = paired_t(a - b, 0.9), stats.ttest_rel(a, b, axis=1)
    interval = test.confidence_interval(0.9)
    np.testing.assert_allclose(found.p, test.pvalue)
    np.testing.assert_allclose([found.low, found.high], [interval.low, interval.high])
    # by hand: mean 2, std 1, so that t = 2 sqrt(3) and half = 4.3027 / sqrt(3)
    hand = paired_t([1.0, 2.0, 3.0])
    assert hand.low == pytest.approx(2 - 4.302652730 / 3**0.5)
    assert hand.p == pytest.approx(1 - np.sqrt(12 / 14))  # for 2 degrees: 1 - t / sqrt(2 + t^2)


@pytest.mark.parametrize("step", [0.0, 0.1 + 0.2 - 0.3, 1e-4, -3.0])
def test_t_of_equal_differences(step: float) -> None:
    found = paired_t([0.97 + step - 0.97, 0.96 + step - 0.96, 0.95 + step - 0.95])
    assert (found.p < 1e-6) == (abs(step) > 1e-12)
    assert found.high - found.low <= 1e-9


def test_two_one_sided_tests() -> None:
    d = np.random.default_rng(1).normal(0.1, 1, (5, 12))
    sides = (
        stats.ttest_1samp(d, -0.8, axis=1, alternative="greater").pvalue,
        stats.ttest_1samp(d, 0.8, axis=1, alternative="less").pvalue,
    )
    np.testing.assert_allclose(t_equivalence(d, 0.8), np.maximum(*sides))
    assert t_equivalence([0.0, 0.0], 0.1) == 0
    assert t_equivalence([0.1, 0.1], 0.1) == 0.5


def test_coverage_of_t_and_of_equivalence() -> None:
    draws, rng = 20_000, np.random.default_rng(2)
    three = 3 * np.sqrt(0.05 * 0.95 / draws)
    for seeds in (2, 5, 20):
        d = rng.normal(0.7, 2, (draws, seeds))
        found = paired_t(d)
        assert np.mean((found.low <= 0.7) & (found.high >= 0.7)) == pytest.approx(0.95, abs=three)
        # at the margin itself, equivalence is claimed in 5% at most
        assert np.mean(t_equivalence(d, 0.7) <= 0.05) <= 0.05 + three


def enumerated(d: NDArray[np.float64]) -> float:
    """Wilcoxon's two-sided p by all signs of the ranks."""
    d = d[d != 0]
    ranks = stats.rankdata(np.abs(d))
    signs = np.array([*itertools.product([0, 1], repeat=len(d))])
    sums, seen = signs @ ranks, ranks[d > 0].sum()
    return min(1.0, 2 * float(min(np.mean(sums <= seen), np.mean(sums >= seen))))


@pytest.mark.parametrize(
    "d",
    [
        [0.3, -0.1, 0.2, 0.5, 0.7, 0.9, -0.4],
        [1, 1, 1, -1, 2, 2, -3, 0, 0],
        [-INF, -INF, 0.1, 0.2, INF, 0.3, 0.4],
        [-INF] * 6,
        [0.0] * 6,
        [5.0, *[0.0] * 7],
    ],
)
def test_wilcoxon_is_all_signs_of_ranks(d: list[float]) -> None:
    assert signed_ranks(d).p == pytest.approx(enumerated(np.array(d, float)))


def test_wilcoxon_is_scipys_without_ties() -> None:
    for seeds in (6, 13, 40):
        d = np.random.default_rng(seeds).normal(0.3, 1, seeds)
        assert signed_ranks(d).p == pytest.approx(stats.wilcoxon(d, method="exact").pvalue)
        less, greater = (
            stats.wilcoxon(d - side * 0.9, alternative=alternative, method="exact").pvalue
            for side, alternative in ((1, "less"), (-1, "greater"))
        )
        assert rank_equivalence(d, 0.9) == pytest.approx(max(less, greater))


def test_interval_of_ranks_is_the_test_turned_round() -> None:
    d = np.random.default_rng(3).normal(0.5, 1, 10)
    means = np.sort([(x + y) / 2 for i, x in enumerate(d) for y in d[: i + 1]])
    found = signed_ranks(d)
    assert found.difference == pytest.approx(np.median(means))
    # a shift is inside if the test does not reject it: tried between all its jumps
    middles = (means[:-1] + means[1:]) / 2
    inside = [shift for shift in middles if enumerated(d - shift) > 0.05]
    assert found.low < min(inside) < max(inside) < found.high
    assert not [x for x in means if found.low < x < min(inside) or max(inside) < x < found.high]


@pytest.mark.parametrize(
    ("d", "difference", "low", "high"),
    [
        ([-INF, *[1.0] * 19], 1, 1, 1),  # one of twenty is left out
        ([-INF] * 3 + [1.0] * 9, 1, -INF, 1),
        ([-INF] * 6, -INF, -INF, -INF),
        ([-INF] * 3 + [INF] * 3, 0, -INF, INF),
        ([-INF] * 4 + [1.0] * 6, -INF, -INF, 1),
    ],
)
def test_ranks_of_failed_runs(d: list[float], difference: float, low: float, high: float) -> None:
    found = signed_ranks(d)
    assert (found.difference, found.low, found.high) == (difference, low, high)


def test_six_pairs_have_no_interval_of_99_percent() -> None:
    found = signed_ranks([1.0, 2, 3, 4, 5, 6], 0.99)
    assert (found.difference, found.low, found.high) == (3.5, -INF, INF)
    assert signed_ranks([1.0, 2, 3, 4, 5, 6], 0.95).low == 1


def test_coverage_of_ranks() -> None:
    """The exact law's own coverage, also where a tenth of the runs fails."""
    rng, draws = np.random.default_rng(4), 1500
    law = np.sort(np.array([*itertools.product([0, 1], repeat=10)]) @ np.arange(1, 11))
    left_out = next(w for w in range(56) if np.mean(law <= w) > 0.025)
    exact = 1 - 2 * np.mean(law < left_out)
    d = rng.laplace(0, 1, (draws, 10))
    d[:, 0] = np.where(rng.random(draws) < 0.5, np.sign(d[:, 0]) * INF, d[:, 0])
    found = [signed_ranks(row) for row in d]
    covered = np.mean([f.low <= 0 <= f.high for f in found])
    assert covered == pytest.approx(exact, abs=3 * np.sqrt(exact * (1 - exact) / draws))


def test_holm_by_hand() -> None:
    p = [0.01, NAN, 0.04, 0.03, 0.005]
    np.testing.assert_allclose(holm(p), [0.03, NAN, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([p, p])[1], holm(p))
    np.testing.assert_allclose(holm([0.9, 0.8]), [1, 1])
    np.testing.assert_allclose(
        holm_levels(p, 0.12)[[0, 2, 3, 4]], [0.12 / 3, 0.12, 0.12 / 2, 0.12 / 4]
    )
    assert np.isnan(holm([NAN, NAN])).all()
    assert holm([]).size == 0


def test_discordant_pairs_by_hand() -> None:
    assert discordant(0, 0) == 1
    assert discordant(6, 0) == pytest.approx(2 / 2**6)
    assert discordant(1, 7) == pytest.approx(2 * (1 + 8) / 2**8)


def test_seeds_for_a_power_of_80_percent() -> None:
    rng, draws = np.random.default_rng(5), 20_000
    three = 3 * np.sqrt(0.8 * 0.2 / draws)
    assert seeds_for_difference(0.5, 1, 0.05) == 34  # Cohen's table for d = 0.5
    for effect, level in ((1.0, 0.01), (0.5, 0.05)):
        seeds = int(seeds_for_difference(effect, 1, level))
        enough, fewer = (
            np.mean(paired_t(rng.normal(effect, 1, (draws, n))).p <= level)
            for n in (seeds, seeds - 1)
        )
        assert enough >= 0.8 - three
        assert fewer <= 0.8 + three
    for true in (0.0, 0.2, -0.2):
        seeds = int(seeds_for_equivalence(true, 1, 0.8, 0.05))
        enough, fewer = (
            np.mean(t_equivalence(rng.normal(true, 1, (draws, n)), 0.8) <= 0.05)
            for n in (seeds, seeds - 1)
        )
        assert enough >= 0.8 - three
        assert fewer <= 0.8 + three
    assert seeds_for_equivalence(0.8, 1, 0.8, 0.05) == INF
    assert seeds_for_difference(1e-9, 1, 0.05) == INF


def test_seeds_for_ranks_and_failures() -> None:
    assert seeds_for_ranks([1, -1, 1, -1], 0.05) == INF
    assert seeds_for_failures(3, 3, 20, 0.05) == INF
    # Noether: (1.960 + 0.842)^2 / (3 / 4) where every mean is positive
    assert seeds_for_ranks([1, INF, 2, 3], 0.05) == np.ceil(2.8016**2 / 0.75)
    # near Noether's share, the test has nearly the power that it says
    rng, draws = np.random.default_rng(6), 400
    share = stats.norm.cdf(0.5 * 2**0.5)  # of normal differences with mean 0.5
    seeds = int(np.ceil(2.8016**2 / (3 * (share - 0.5) ** 2)))
    power = np.mean([signed_ranks(row).p <= 0.05 for row in rng.normal(0.5, 1, (draws, seeds))])
    assert power == pytest.approx(0.8, abs=0.08)
    # Connor: (1.960 sqrt(0.35) + 0.842 sqrt(0.35 - 0.35^2))^2 / 0.35^2 = 19.9
    assert seeds_for_failures(7, 0, 20, 0.05) == seeds_for_failures(0, 7, 20, 0.05) == 20


# --- the table


def test_a_handicap_of_known_size() -> None:
    row = one({"relu": noisy(20), "worse": noisy(20, -0.003, own=2)})
    d = np.array(noisy(20, -0.003, own=2)) - noisy(20)
    assert row["verdict"] == "worse"
    assert row["method"] == "paired t"
    assert row["low"] < -0.003 < row["high"] < 0
    assert row["difference"] == pytest.approx(d.mean())
    assert row["p"] == row["p_holm"] == pytest.approx(stats.ttest_1samp(d, 0).pvalue)
    assert row["p_better"] == np.mean(d > 0)
    assert row["mean"] - row["baseline_mean"] == pytest.approx(row["difference"])
    assert np.isnan(row["seeds_needed"])
    assert row["words"].startswith("worse has a lower validation accuracy than relu: difference -0")


def test_smaller_losses_are_better() -> None:
    values = {"relu": noisy(20), "good": noisy(20, 0.003, own=2)}
    row = one(values, measure="valid_loss")
    assert row["verdict"] == "better"
    assert row["difference"] < 0
    assert row["p_better"] > 0.9
    assert row["margin"] == pytest.approx(0.02 * row["baseline_mean"])
    assert "a lower validation loss" in row["words"]
    steps = one(values, measure="steps_to_target")
    assert steps["verdict"] == "better"


def test_a_variant_against_itself() -> None:
    row = one({"relu": noisy(5), "copy": noisy(5)})
    assert row["verdict"] == "same in every seed"
    assert (row["difference"], row["low"], row["high"], row["p"], row["p_better"]) == (
        *(0, 0, 0, 1),
        0.5,
    )
    failing = [NAN, 0.1, *noisy(5)]
    row = one({"relu": failing, "copy": failing})
    assert (row["verdict"], row["failed"], row["only_failed"]) == ("same in every seed", 2, 0)
    row = one({"relu": [NAN] * 8, "copy": [0.1] * 8})
    assert (row["verdict"], row["difference"]) == ("same in every seed", 0)
    assert "fails in each of 8 seeds, and so does relu" in row["words"]


def test_equivalence_needs_its_margin() -> None:
    values = {"relu": noisy(20), "other": noisy(20, own=2)}
    row = one(values)
    d = np.array(values["other"]) - values["relu"]
    assert row["verdict"] == "equivalent"
    assert row["p_equivalent"] == pytest.approx(float(t_equivalence(d, 0.002)))
    assert "smaller than 0.20 points" in row["words"]
    row = one(values, margin=0.0002)
    assert row["verdict"] == "not decided"
    assert np.isfinite(row["seeds_needed"])
    assert f"about {row['seeds_needed']:.0f} more seeds" in row["words"]


def test_one_diverged_seed() -> None:
    """The interval stays finite, and nothing is called equivalent."""
    lost = noisy(20, own=2, spread=0.0002)
    lost[7] = NAN
    row = one({"relu": noisy(20, spread=0.0002), "lost": lost})
    assert (row["failed"], row["only_failed"], row["p_failed"]) == (1, 1, 1.0)
    assert row["method"] == "Wilcoxon"
    assert np.isfinite([row["difference"], row["low"], row["high"]]).all()
    assert row["p_equivalent"] < 0.05
    assert row["verdict"] == "not decided"
    assert row["mean"] == pytest.approx(np.nanmean(lost))


@pytest.mark.parametrize("measure", ["valid_accuracy", "valid_loss", "train_loss"])
def test_all_diverged(measure: str) -> None:
    values = {"relu": noisy(12), "lost": [NAN] * 12}
    row = one(values, measure=measure)
    assert row["verdict"] == "fails more often"
    assert row["p_failed"] == pytest.approx(2 / 2**12)
    assert row["difference"] == (-INF if measure == "valid_accuracy" else INF)
    assert row["p_better"] == 0
    assert np.isnan(row["mean"])
    assert "fails in 12 of 12 seeds and relu in 0" in row["words"]
    turned = one(values, baseline="lost", measure=measure)
    assert turned["verdict"] == "fails less often"
    assert turned["difference"] == -row["difference"]


def test_the_mean_tells_the_direction_and_else_the_seeds() -> None:
    small, large = [-1e-5] * 11, [0.02, 0.021, 0.022, 0.023, 0.024, 0.025, 0.026, 0.027, 0.028]
    row = one({"relu": [0.9] * 20, "other": [*(0.9 + np.array(small + large))]})
    assert (row["verdict"], row["p_better"]) == ("better", 9 / 20)
    lost = [NAN] * 20
    row = one({"relu": [*lost, *noisy(7)], "other": [*lost, *noisy(7, -0.01, own=2)]})
    assert (row["verdict"], row["difference"]) == ("worse", 0)


def test_steps_that_never_came_rank_last() -> None:
    table = training({("relu", "k"): noisy(8), ("slow", "k"): noisy(8, own=2)})
    table.loc[table["activation"] == "slow", "steps_to_target"] = NAN
    row = ist.summarize_training(table, measure="steps_to_target").iloc[0]
    assert (row["failed"], row["method"], row["difference"]) == (0, "Wilcoxon", INF)
    assert row["verdict"] == "worse"


@pytest.mark.parametrize(
    ("values", "method", "needed"),
    [
        ([0.97], "too few", 1),
        ([0.97, 0.98], "paired t", None),
        ([0.97, NAN, 0.96], "too few", 3),
        ([NAN], "too few", 5),
        ([NAN, *noisy(4, own=2)], "too few", 1),
        ([NAN, *noisy(5, own=2)], "Wilcoxon", None),
    ],
)
def test_few_seeds(values: list[float], method: str, needed: float | None) -> None:
    row = one({"relu": noisy(len(values)), "few": values})
    assert row["method"] == method
    assert row["verdict"] == "not decided"
    assert needed is None or row["seeds_needed"] == needed
    assert np.isnan(row["p"]) == (method == "too few")
    assert not np.isnan(row["difference"])


def test_only_shared_seeds_count() -> None:
    table = pd.concat(
        [
            training({("relu", "k"): noisy(12)}),
            training({("other", "k"): noisy(20, own=2)[4:]}, first=4),
            training({("alone", "k"): noisy(3)}, first=50),
        ]
    )
    found = ist.summarize_training(table).set_index("activation")
    assert found["seeds"].to_dict() == {"other": 8, "alone": 0}
    d = (np.array(noisy(20, own=2)[:12]) - noisy(12))[4:]
    assert found.loc["other", "difference"] == pytest.approx(d.mean())
    assert found.loc["alone", "verdict"] == "not decided"
    assert "no seed in common" in str(found.loc["alone", "words"])


def test_order_of_rows_and_unused_names_change_nothing() -> None:
    values = {(a, i): noisy(9, own=n) for n, (a, i) in enumerate(itertools.product("cba", "yx"))}
    table = training(values | {("relu", "x"): noisy(9), ("relu", "y"): noisy(9, own=7)})
    plain = ist.summarize_training(table)
    assert [*plain["activation"].cat.categories] == ["c", "b", "a", "relu"]
    kinds = {
        "activation": pd.CategoricalDtype(["unused", "c", "b", "a", "relu"]),
        "init": pd.CategoricalDtype(["y", "nothing", "x"]),
    }
    shuffled = table.astype(kinds).sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(ist.summarize_training(shuffled), plain)


def test_places_are_kept_apart_and_one_family() -> None:
    tables = [
        training(
            {("relu", "k"): noisy(9, own=depth), ("other", "k"): noisy(9, 0.001 * depth, own=9)},
            network=network,
            depth=depth,
        )
        for network, depth in itertools.product(("mlp", "cnn"), (2, 4))
    ]
    found = ist.summarize_training(pd.concat(tables))
    assert len(found) == 4
    np.testing.assert_allclose(found["p_holm"], holm(found["p"]))
    for alone, (_, row) in zip(tables, found.iterrows(), strict=True):
        by_itself = ist.summarize_training(alone).iloc[0]
        assert row[[*KEYS, "difference", "p"]].equals(by_itself[[*KEYS, "difference", "p"]])
    assert str(found.loc[3, "words"]).startswith("For network cnn and depth 4, other ")


@pytest.mark.parametrize(
    ("baseline", "compared", "name"),
    [
        ("a", [("b", "x"), ("b", "y")], "a"),
        ("y", [("a", "x"), ("b", "x")], "y"),
        (("b", "x"), [("a", "x"), ("a", "y"), ("b", "y")], "b with x"),
    ],
)
def test_baselines(
    baseline: str | tuple[str, str], compared: list[tuple[str, str]], name: str
) -> None:
    values = {pair: noisy(6, own=n) for n, pair in enumerate(itertools.product("ab", "xy"))}
    found = ist.summarize_training(training(values), baseline)
    pairs = sorted(zip(found["activation"], found["init"], strict=True))
    assert pairs == compared
    assert set(found["baseline"]) == {name}
    assert set(found["verdict"].cat.categories) == set(VERDICTS)


def test_failures_that_cannot_differ_are_no_tests() -> None:
    values = {("relu", "k"): noisy(8), ("lost", "k"): [NAN] * 8}
    values |= {(f"fine{n}", "k"): noisy(8, own=n) for n in range(2, 40)}
    found = ist.summarize_training(training(values)).set_index("activation")
    assert found.loc["lost", "p_failed_holm"] == pytest.approx(2 / 2**8)
    assert found.loc["lost", "verdict"] == "fails more often"
    assert (found.drop("lost")["p_failed_holm"] == 1).all()


TWO = {("relu", "k"): noisy(3), ("other", "k"): noisy(3, own=2)}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (None, {"baseline": "rleu"}, "unknown baseline 'rleu': did you mean 'relu'"),
        (None, {"baseline": ("relu", "kk")}, "unknown init 'kk': did you mean 'k'"),
        (None, {"baseline": ("relu",)}, "a name or .activation, init."),
        (None, {"baseline": "k"}, "nothing to compare with k"),
        (None, {"measure": "accuracy"}, "unknown measure 'accuracy': did you mean"),
        (None, {"measure": "test_accuracy"}, "does the data have a test split"),
        (None, {"margin": 0.0}, "margin must be a number above 0, got 0.0"),
        (None, {"confidence": 95}, "confidence must be between 0 and 1, got 95"),
        (lambda t: t.drop(columns="outcome"), {}, "not a training table: it lacks .* outcome"),
        (lambda t: t[:0], {}, "no run is finished yet"),
        (lambda t: pd.concat([t, t]), {}, "of 6 runs, 12 rows are of the last epoch"),
        (lambda t: t[1:-1], {}, "of 6 runs, 5 rows are of the last epoch"),
        (lambda t: t.replace({"k": "relu"}), {}, "'relu' is an activation and an init"),
    ],
)
def test_what_cannot_be(change: Any, options: dict[str, Any], message: str) -> None:
    table = training(TWO)
    with pytest.raises(ValueError, match=message):
        ist.summarize_training(table if change is None else change(table), **options)


# --- real seeds


@pytest.mark.parametrize("seeds", [5, 10, 20])
def test_a_variant_against_itself_on_real_seeds(seeds: int) -> None:
    """Kept results of one variant: whatever is found between two draws of them is false."""
    kept = pd.read_csv(SEEDS)["valid_accuracy"].to_numpy()
    draws, others = 2000, 7
    rng = np.random.default_rng(seeds)
    order = rng.permuted(np.tile(np.arange(len(kept)), (draws, 1)), axis=1)
    baseline, rest = kept[order[:, None, :seeds]], order[:, seeds:]
    variants = np.stack(
        [kept[rng.permuted(rest, axis=1)[:, :seeds]] for _ in range(others)], axis=1
    )
    p = paired_t(variants - baseline).p
    assert 0.035 <= np.mean(p[:, 0] <= 0.05) <= 0.065
    assert np.mean((holm(p) <= 0.05).any(axis=1)) <= 0.06
