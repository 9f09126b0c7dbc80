from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import initstats as ist
from initstats.diagnosis import CONFIGURATION, VERDICTS, diagnose, seed_interval
from initstats.moments.table import STATISTICS

WORDS = [verdict.name for verdict in VERDICTS]


def cell(
    rms: Sequence[float],
    *,
    act: Mapping[str, float] | None = None,
    pre: Mapping[str, float] | None = None,
    gradient: Sequence[float] | None = None,
    counts: Sequence[int] | None = None,
    **key: Any,
) -> pd.DataFrame:
    """One cell's rows: pre-activations of these rms by layer, all else well-behaved.

    `pre` and `act` change statistics of the last layer.
    """
    depth = len(rms)
    healthy = dict.fromkeys(STATISTICS, 0.0) | {"count": 500, "std": 1.0, "second_moment": 1.0}
    healthy |= {"sample_correlation": 0.3}
    rows = []
    for layer in range(1, depth + 1):
        length = {"second_moment": float(rms[layer - 1]) ** 2}
        last = layer == depth
        kinds = [
            ("preactivation", "forward", length | (dict(pre or {}) if last else {})),
            ("activation", "forward", dict(act or {}) if last else {}),
        ]
        if gradient is not None:
            entries = {"count": 500 if counts is None else counts[layer - 1]}
            squares = {"second_moment": float(gradient[layer - 1]) ** 2}
            kinds.append(("preactivation", "backward", squares | entries))
        for tensor, direction, changed in kinds:
            place = {"layer": layer, "tensor": tensor, "direction": direction}
            rows.append(place | healthy | changed)
    names: dict[str, Any] = {"dataset": "toy", "network": "mlp", "init": "a", "activation": "relu"}
    return pd.DataFrame(rows).assign(**(names | {"width": 50, "seed": 0} | key))


def only(table: pd.DataFrame) -> pd.Series:
    summary = ist.summarize(table)
    assert len(summary) == 1
    return summary.iloc[0]


def test_growth_is_the_geometric_mean_over_seeds_with_its_student_interval() -> None:
    factors = np.array([0.7, 0.8, 0.95, 0.72])
    table = pd.concat(
        cell(factor ** np.arange(6), seed=seed) for seed, factor in enumerate(factors)
    )
    summary = only(table)
    logs = np.log(factors)
    low, high = stats.t.interval(0.95, 3, logs.mean(), stats.sem(logs))
    assert summary["growth"] == pytest.approx(stats.gmean(factors))
    assert summary["growth_low"] == pytest.approx(np.exp(low))
    assert summary["growth_high"] == pytest.approx(np.exp(high))
    assert (summary["depth"], summary["seeds"]) == (6, 4)


def test_growth_is_from_the_first_layer_to_the_last() -> None:
    assert only(cell([3.0, 100.0, 0.1, 6.0]))["growth"] == pytest.approx(2 ** (1 / 3))


def test_levels_are_medians_over_seeds() -> None:
    last = {"std": 0.2, "mean": 0.1, "dead_fraction": 0.3}
    table = pd.concat(
        cell([1.0], seed=seed, act={name: value * size for name, value in last.items()})
        for seed, size in enumerate((1, 1.1, 2.5))
    )
    summary = only(table)
    assert summary["std"] == pytest.approx(0.22)
    assert summary["mean"] == pytest.approx(0.11)
    assert summary["dead"] == pytest.approx(0.33)
    assert summary["correlation"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("word", "table"),
    [
        ("healthy", cell([1, 1])),
        ("healthy", cell([1, 9.9])),
        ("explodes", cell([1, 10.1])),
        ("explodes", cell([1, np.inf])),
        ("healthy", cell([1, 0.101])),
        ("vanishes", cell([1, 0.099])),
        ("vanishes", cell([1, 0])),
        ("healthy", cell([1, 1], pre={"sample_correlation": 0.989})),
        ("collapses", cell([1, 1], pre={"sample_correlation": 0.99})),
        ("healthy", cell([1, 1], act={"dead_fraction": 0.49})),
        ("dead", cell([1, 1], act={"dead_fraction": 0.5})),
        ("healthy", cell([1, 1], act={"mean": -0.99, "std": 1})),
        ("shifted", cell([1, 1], act={"mean": -1.01, "std": 1})),
        ("gradient vanishes", cell([1, 1], gradient=[0.09, 1])),
        ("gradient explodes", cell([1, 1], gradient=[11, 1])),
        ("healthy", cell([1, 1], gradient=[9, 1])),
        ("overflows", cell([1, 1], act={"nonfinite": 1})),
        ("overflows", cell([1, np.nan], pre={"nonfinite": 500})),
    ],
)
def test_verdicts(word: str, table: pd.DataFrame) -> None:
    summary = only(table)
    assert summary["verdict"] == word
    assert summary["agreement"] == 1


def test_the_gravest_word_wins() -> None:
    all_at_once = cell(
        [1, 0.01],
        pre={"sample_correlation": 1.0},
        act={"dead_fraction": 1, "mean": 5},
        gradient=[0, 1],
    )
    assert only(all_at_once)["verdict"] == "collapses"


def test_an_overflow_anywhere_counts_and_hides_what_is_left_of_the_tensor() -> None:
    middle = cell([1, 1, 1])
    middle.loc[(middle["layer"] == 2) & (middle["tensor"] == "activation"), "nonfinite"] = 1
    assert only(middle)["verdict"] == "overflows"
    lost = only(cell([1, 1], act={"nonfinite": 400, "std": 0.0, "mean": 0.0}))
    assert lost["std"] == np.inf
    assert lost[["mean", "dead", "correlation"]].isna().all()


def test_a_cell_of_nothing_but_nan() -> None:
    nothing = {name: np.nan for name, entry in STATISTICS.items() if not entry.integer}
    table = cell([1, np.nan], pre=nothing | {"nonfinite": 500}, act=nothing)
    table.loc[table["layer"] == 2, "nonfinite"] = 500
    summary = only(table)
    assert (summary["verdict"], summary["growth"]) == ("overflows", np.inf)


def test_one_seed_that_vanishes_altogether_is_not_left_out() -> None:
    summary = only(pd.concat([cell([1, 1], seed=0), cell([1, 0], seed=1), cell([1, 1], seed=2)]))
    assert summary["growth"] == 0
    assert np.isnan(summary["growth_low"])
    assert (summary["verdict"], summary["agreement"]) == ("healthy", pytest.approx(2 / 3))


def test_no_signal_from_the_start_has_no_growth() -> None:
    summary = only(cell([0, 0]))
    assert np.isnan(summary["growth"])
    assert summary["verdict"] == "vanishes"


def test_of_equally_many_votes_the_gravest_counts() -> None:
    summary = only(pd.concat([cell([1, 1], seed=0), cell([1, 99], seed=1)]))
    assert (summary["verdict"], summary["agreement"]) == ("explodes", 0.5)


def test_depth_one_and_a_single_seed() -> None:
    summary = only(cell([0.5]))
    assert np.isnan(summary[["growth", "growth_low", "growth_high"]].astype(float)).all()
    assert (summary["verdict"], summary["depth"], summary["seeds"]) == ("healthy", 1, 1)
    single = only(cell([1, 0.5]))
    assert single["growth"] == 0.5
    assert np.isnan(single["growth_low"])


def test_gradient_growth_compares_norms_not_means() -> None:
    # ten times the units with a tenth of the power each: the same norm
    summary = only(cell([1, 1], gradient=[np.sqrt(0.1), 1], counts=[5000, 500]))
    assert summary["gradient_growth"] == pytest.approx(1)
    assert summary["verdict"] == "healthy"
    assert only(cell([1, 1, 1], gradient=[4, 2, 1]))["gradient_growth"] == pytest.approx(2)
    assert np.isnan(only(cell([1, 1]))["gradient_growth"])


def test_rows_follow_the_grid_whatever_the_order_of_the_table() -> None:
    keys: list[dict[str, Any]] = [
        {"network": network, "width": width, "init": init, "activation": activation}
        for network in ("mlp", "cnn")
        for init in ("zebra", "ant")
        for activation in ("tanh", "relu")
        for width in (8, 200)
    ]
    table = pd.concat(
        cell([1, 0.5 + 0.01 * number], **key) for number, key in enumerate(keys)
    ).astype(
        {
            "network": pd.CategoricalDtype(["mlp", "cnn"]),
            "init": pd.CategoricalDtype(["zebra", "unseen", "ant"]),
            "activation": pd.CategoricalDtype(["tanh", "relu"]),
        }
    )
    summary = ist.summarize(table)
    shuffled = ist.summarize(table.sample(frac=1, random_state=3))
    assert summary[CONFIGURATION].to_dict("records") == [
        {name: key[name] for name in CONFIGURATION} for key in keys
    ]
    assert summary["growth"].to_list() == pytest.approx(
        [0.5 + 0.01 * number for number in range(len(keys))]
    )
    pd.testing.assert_frame_equal(summary, shuffled)


def test_a_table_from_a_file_is_summarized_alike(tmp_path: Path) -> None:
    """Alphabetically, tanh comes after relu, and a before b."""
    grid = [(n, i, a) for n in ("mlp", "cnn") for i in ("b", "a") for a in ("tanh", "relu")]
    table = pd.concat(
        cell([1, 2], network=network, init=init, activation=activation, width=width)
        for network, init, activation in grid
        for width in (50, 9)
    )
    order = {"network": ["mlp", "cnn"], "init": ["b", "a"], "activation": ["tanh", "relu"]}
    table = table.astype({name: pd.CategoricalDtype(names) for name, names in order.items()})
    table.to_csv(tmp_path / "table.csv", index=False)
    summary = ist.summarize(pd.read_csv(tmp_path / "table.csv"))
    pd.testing.assert_frame_equal(summary, ist.summarize(table))
    assert list(zip(*(summary[name][::2] for name in order), strict=True)) == grid
    found = diagnose(pd.read_csv(tmp_path / "table.csv"))
    subjects = [f"{n} of width {w}, {i}, {a}" for n, i, a in grid for w in (9, 50)]
    assert found.query("rule == 'nonfinite'")["subject"].tolist() == subjects


def test_findings_tell_subjects_apart() -> None:
    found = diagnose(pd.concat([cell([1] * 5), cell([1, 0.1, 0.01, 1e-3, 1e-4], init="b")]))
    printed = " ".join(str(found).split())
    assert "signal at layer 1 to layer 5 (mlp of width 50, b, relu)" in printed
    assert "no fault found by: nonfinite, " in printed
    assert "signal (1 of 2)" in printed


def test_parameters_are_carried_along() -> None:
    gains = {"normal(std=1)": 1.0, "normal(std=2)": 2.0, "xavier": np.nan}
    table = pd.concat(
        cell([1, 1], init=init, seed=seed, init_std=std, activation_mode="a" if std > 1 else None)
        for init, std in gains.items()
        for seed in range(2)
    )
    summary = ist.summarize(table)
    assert summary.columns[:7].tolist() == [
        *CONFIGURATION,
        *("init_std", "activation_mode"),
        "depth",
    ]
    assert summary["init_std"].tolist() == pytest.approx([1, 2, np.nan], nan_ok=True)
    assert summary["activation_mode"].fillna("-").tolist() == ["-", "a", "-"]


def test_an_unfinished_run() -> None:
    table = pd.concat([cell([1, 1], seed=0), cell([1, 1], seed=1), cell([1, 1], init="b")])
    assert ist.summarize(table)["seeds"].to_list() == [2, 1]


def test_seed_interval_leaves_nothing_out() -> None:
    values = {"a": [1.0, 2.0, 4.5], "b": [1.0, np.inf, 2.0], "c": [1.0, np.nan, 2.0], "d": [7.0]}
    values["e"] = [np.inf, -np.inf]
    frame = pd.DataFrame([(key, x) for key, xs in values.items() for x in xs], columns=["k", "x"])
    result = seed_interval(frame, "x", ["k"])
    expected = stats.ttest_1samp(values["a"], 0).confidence_interval(0.95)
    assert list(result.loc["a"]) == pytest.approx([2.5, *expected])
    assert result["mean"].to_list() == pytest.approx(
        [2.5, np.inf, np.nan, 7.0, np.nan], nan_ok=True
    )
    assert np.isnan(result.loc[["b", "c", "d", "e"], ["low", "high"]].to_numpy()).all()


def test_the_table_of_a_probed_model_is_refused() -> None:
    probed = cell([1, 1]).drop(columns=["init", "activation", "width", "seed"])
    with pytest.raises(ValueError, match="lacks the columns init, activation, width, seed"):
        ist.summarize(probed)


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no cell of the sweep is finished"):
        ist.summarize(cell([1, 1]).head(0))


def test_two_data_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="mixes the data sets toy, mnist"):
        ist.summarize(pd.concat([cell([1, 1]), cell([1, 1], dataset="mnist")]))


def test_a_notebook_shows_verdicts_first() -> None:
    table = pd.concat([cell([1, 1], init="<b>"), cell([1, 99], init="kaiming_normal")])
    summary = ist.summarize(table)
    shown = summary._repr_html_()
    heads = [part.partition("<")[0] for part in shown.split("<th>")[1:]]
    assert heads[:4] == ["init", "verdict", "agreement", "growth"]
    assert "&lt;b&gt;" in shown
    assert shown.count("<b>healthy</b>") == 1
    assert ">explodes<" in shown
    assert "<td>100%</td>" in shown
    some = summary[["init", "verdict"]]
    assert some._repr_html_() == pd.DataFrame(some)._repr_html_()  # type: ignore[operator]


def test_what_tokens_have_in_common_is_told_apart() -> None:
    tokens = cell([1, 1], init="a", network="transformer", sample_correlation=0.2)
    tokens["pair_correlation"] = 0.7
    plain = cell([1, 1], init="a", sample_correlation=0.3).assign(pair_correlation=np.nan)
    summary = ist.summarize(pd.concat([tokens, plain])).set_index("network")
    assert summary["correlation"].to_dict() == pytest.approx({"transformer": 0.7, "mlp": 0.3})
    assert summary["pair_correlation"]["transformer"] == pytest.approx(0.7)
    assert np.isnan(summary["pair_correlation"]["mlp"])
    assert "pair_correlation" in summary.reset_index()._repr_html_()
    assert "`pair_correlation`" in (ist.summarize.__doc__ or "")
    without = ist.summarize(cell([1, 1], init="a"))
    assert "pair_correlation" not in without
    assert "pair_correlation" not in without._repr_html_()


def test_words_are_few_and_explained() -> None:
    assert len(set(WORDS)) == len(WORDS) <= 12
    assert WORDS[-1] == "healthy"
    assert all(verdict.meaning for verdict in VERDICTS)
