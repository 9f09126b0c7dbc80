"""Verdicts of stacks of every depth, against a judge who reads the rows one by one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

import initstats as ist
from initstats.diagnosis import VERDICTS, Limits, judge
from initstats.moments.table import STATISTICS

CELL = ["network", "init", "activation", "width", "seed"]


def wild(seed: int, *, backward: bool = True) -> pd.DataFrame:
    """A table that meets every verdict, at depths that differ, in an order of its own."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for init, activation, number in [(i, a, s) for i in "ab" for a in ("x", "y") for s in range(7)]:
        key = {"network": "mlp", "init": init, "activation": activation, "width": 9, "seed": number}
        wildness, size, slope = rng.choice([0.1, 1.5]), 0.0, 0.0
        for layer in range(1, 1 + int(rng.choice([1, 6]))):
            size += wildness * rng.normal()
            slope += wildness * rng.normal()
            pre, act = (
                dict.fromkeys(STATISTICS, 0.0) | {"std": 1.0, "count": 40 * layer} for _ in range(2)
            )
            pre["second_moment"] = 10.0 ** (2 * size) * (rng.random() > 0.02)
            pre["sample_correlation"] = rng.choice([0.2, 0.9899, 0.99, 1, np.nan])
            pre["dead_fraction"] = rng.choice([0, 0.2, 0.6])
            act["dead_fraction"] = max(pre["dead_fraction"], rng.choice([0, 0.5, 0.8, 1]))
            act["mean"] = rng.choice([0.1, -1.3])
            back = dict(pre, second_moment=10.0 ** (2 * slope) * (rng.random() > 0.02))
            for row in (pre, act, back):
                row["nonfinite"] = float(rng.random() < 0.02)
            places = [("preactivation", "forward", pre), ("activation", "forward", act)]
            places += [("preactivation", "backward", back)] * backward
            for tensor, direction, values in places:
                rows.append(
                    key | {"layer": layer, "tensor": tensor, "direction": direction} | values
                )
    return pd.DataFrame(rows).sample(frac=1, random_state=seed)


def by_hand(rows: pd.DataFrame, layer: int, limits: Limits) -> tuple[str, str, str, str]:
    """The verdict on the first layers of one cell, and those on signal, gradient, distinctness."""
    at = {(r["layer"], r["tensor"], r["direction"]): r for _, r in rows.iterrows()}
    over = any(
        at[n, tensor, "forward"]["nonfinite"] > 0
        for n in range(1, layer + 1)
        for tensor in ("preactivation", "activation")
    )
    pre, act = (at[layer, tensor, "forward"] for tensor in ("preactivation", "activation"))
    rms = math.inf if pre["nonfinite"] else math.sqrt(pre["second_moment"])
    same = not pre["nonfinite"] and pre["sample_correlation"] >= limits.correlation
    whole = not (pre["nonfinite"] or act["nonfinite"])
    constant = not pre["nonfinite"] and pre["dead_fraction"] >= 0.5
    dead = whole and np.float32(act["dead_fraction"] - pre["dead_fraction"]) >= 0.5
    shifted = not act["nonfinite"] and abs(act["mean"]) > act["std"]
    ratio = None
    if (layer, "preactivation", "backward") in at:
        ends = [at[n, "preactivation", "backward"] for n in (1, layer)]
        first, here = (
            math.inf if end["nonfinite"] else end["second_moment"] * end["count"] for end in ends
        )
        if math.isinf(first):
            ratio = math.inf
        elif first == 0:
            ratio = 0.0
        else:
            ratio = math.inf if here == 0 else math.sqrt(first / here)
    grows = ratio is not None and ratio > limits.gradient_factor
    falls = ratio is not None and ratio < 1 / limits.gradient_factor
    signal = (
        ("overflows" if over else None)
        or ("explodes" if rms > limits.factor else None)
        or ("vanishes" if rms < 1 / limits.factor else None)
        or ("dead" if dead else None)
        or ("constant" if constant else None)
        or ("shifted" if shifted else None)
        or "healthy"
    )
    gradient = "gradient explodes" if grows else "gradient vanishes" if falls else "healthy"
    known = not pre["nonfinite"] and not math.isnan(pre["sample_correlation"])
    distinct = "collapses" if same else "healthy" if known else "unknown"
    order = [verdict.name for verdict in VERDICTS]
    words = [word for word in (signal, gradient, distinct) if word in order]
    gravest = min(words, key=order.index)
    return gravest, signal, "unknown" if ratio is None else gradient, distinct


@pytest.mark.parametrize(
    "limits", [Limits(), Limits(factor=3, correlation=0.9, gradient_factor=1.5), Limits(30, 1, 100)]
)
@pytest.mark.parametrize("backward", [True, False])
def test_every_stack_is_judged_as_by_hand(limits: Limits, backward: bool) -> None:
    table = wild(int(limits.factor), backward=backward)
    found = judge(table, None, limits)
    assert len(found) == len(table.drop_duplicates([*CELL, "layer"]))
    met = set[str]()
    for cell, rows in table.groupby(CELL):
        for layer in sorted(rows["layer"].unique()):
            row = found.loc[(*cell, layer)]
            expected = by_hand(rows, layer, limits)
            names = ("verdict", "signal_verdict", "gradient_verdict", "distinctness_verdict")
            assert tuple(row[name] for name in names) == expected
            met.add(expected[0])
    assert len(met) >= 6 + 2 * backward


def test_a_summary_is_the_vote_on_the_deepest_stacks() -> None:
    table = wild(1)
    table = table[table["layer"] == 1]
    cells, summary = judge(table), ist.summarize(table)
    order = [verdict.name for verdict in VERDICTS]
    for _, row in summary.iterrows():
        own = cells.xs((row["init"], row["activation"]), level=("init", "activation"))
        counts = own["verdict"].value_counts().sort_index()
        best = [str(word) for word in counts.index[counts == counts.max()]]
        best.sort(key=order.index)
        assert (row["verdict"], row["tied"]) == (best[0], ", ".join(best[1:]))
        assert row["agreement"] == pytest.approx(counts.max() / 7)


def test_a_tie_is_called_one() -> None:
    table = wild(3)
    table = table[(table["seed"] < 2) & (table["layer"] == 1)]
    table = table[(table["init"] == "a") & (table["activation"] == "x")]
    healthy = {"second_moment": 1.0, "dead_fraction": 0.0, "mean": 0.0, "nonfinite": 0.0}
    table = table.assign(sample_correlation=0.5, std=1.0, **healthy)
    assert ist.summarize(table)["tied"].tolist() == [""]
    forward = (table["direction"] == "forward") & (table["tensor"] == "preactivation")
    table.loc[forward & (table["seed"] == 1), "second_moment"] = 1e6
    summary = ist.summarize(table).iloc[0]
    assert (summary["verdict"], summary["tied"]) == ("explodes", "healthy")


def chaotic(*, backward: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """tanh at sigma_w = 2.5 over thirty layers, and what theory says of it."""
    grid = {"inits": ["mean_field(sigma_w=2.5)"], "activations": ["tanh"], "widths": [200]}
    data = ist.load_data("mnist")
    made = ist.Grid(**grid, depth=30, seeds=2, samples=32, backward=backward)
    return ist.run_sweep(made, data), ist.predict(made.model_copy(update={"backward": True}), data)


def test_chaos_is_not_healthy() -> None:
    table, theory = chaotic(backward=True)
    forward = table[table["direction"] == "forward"]
    for rows, told, by in (
        (table, None, "measured"),
        (table, theory, "measured"),
        (forward, theory, "theory"),
    ):
        summary = ist.summarize(rows, told).iloc[0]
        assert (summary["verdict"], summary["gradient"]) == ("gradient explodes",) * 2
        assert (summary["signal"], summary["distinctness"]) == ("healthy", "healthy")
        assert summary["gradient_by"] == by
    unseen = ist.summarize(forward).iloc[0]
    assert (unseen["gradient"], unseen["gradient_by"]) == ("unknown", "nothing")
    assert unseen["verdict"] == "healthy"
    # theory's factor per layer is the root of chi_1, which closed-form propagation gives, too
    walk = ist.theory.propagate("tanh", sigma_w2=2.5**2, sigma_b2=0.0, depth=30, q0=1.0)
    chi_1 = walk[walk["tensor"] == "activation"]["chi_1"].iloc[5]
    growth = ist.summarize(forward, theory)["gradient_growth"].iloc[0]
    assert growth == pytest.approx(math.sqrt(chi_1), rel=0.02)
    measured = ist.summarize(table)["gradient_growth"].iloc[0]
    assert measured == pytest.approx(growth, rel=0.05)


def test_theory_that_says_nothing_is_no_verdict() -> None:
    table, theory = chaotic(backward=False)
    summary = ist.summarize(table, theory.assign(second_moment=np.nan)).iloc[0]
    assert (summary["gradient_by"], summary["gradient"]) == ("nothing", "unknown")


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"factor": 1}, "factor is 1: it must be a number above 1"),
        ({"factor": math.nan}, "factor is nan"),
        ({"gradient_factor": math.inf}, "gradient_factor is inf"),
        ({"correlation": 0}, "correlation is 0: it must be above 0 and at most 1"),
        ({"correlation": 1.01}, "correlation is 1.01"),
    ],
)
def test_limits_that_cannot_be(limits: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ist.summarize(wild(0), **limits)  # type: ignore[arg-type]


def test_meanings_name_the_limits() -> None:
    words = {verdict.name: verdict.under(Limits(3, 0.95, 30)) for verdict in VERDICTS}
    assert "more than 3 times" in words["explodes"]
    assert "1/3 of" in words["vanishes"]
    assert "0.95" in words["collapses"]
    assert "30 times" in words["gradient explodes"]
    assert "below 1/30" in words["gradient vanishes"]
    assert not any("{" in verdict.meaning for verdict in VERDICTS)
    assert "more than 10 times" in VERDICTS[2].meaning


def stream(shares: list[float], **changes: Any) -> pd.DataFrame:
    """The table of one pre-norm stream of tokens: a stem, and a branch for each share."""
    plain = dict.fromkeys(STATISTICS, 0.0) | {"count": 10.0, "std": 1.0, "second_moment": 1.0}
    plain |= {"sample_correlation": 0.2}
    key = {"network": "n", "init": "i", "activation": "a", "width": 4, "seed": 0}
    rows: list[dict[str, Any]] = []
    for layer, share in enumerate([math.nan, *shares], 1):
        inner = ["normed", "preactivation", "activation", "branch"] if layer > 1 else []
        for tensor in [*inner, "stream"]:
            for direction in ("forward", "backward"):
                row = key | {"layer": layer, "tensor": tensor, "direction": direction} | plain
                if tensor == "stream":
                    row |= {"branch_share": share, "pair_correlation": 0.3}
                rows.append(row | changes.get(f"{tensor}_{direction}", {}))
    return pd.DataFrame(rows)


def verdict(table: pd.DataFrame) -> str:
    return str(ist.summarize(table)["verdict"].iloc[0])


def test_streams_are_judged_by_what_goes_through_them() -> None:
    even = [0.5 / n for n in range(1, 21)]
    assert verdict(stream(even)) == "healthy"
    huge = {"second_moment": 1e6}
    assert verdict(stream(even, stream_forward=huge)) == "healthy"  # the next norm takes it away
    assert verdict(stream(even, normed_forward={"second_moment": 1e-3})) == "vanishes"
    without = stream(even, stream_forward=huge).query("tensor != 'normed'")
    assert verdict(without) == "explodes"
    assert verdict(stream(even, stream_forward={"pair_correlation": 0.995})) == "collapses"
    assert verdict(stream(even, stream_forward={"sample_correlation": 0.995})) == "collapses"
    assert verdict(stream(even, branch_forward={"sample_correlation": 0.995})) == "healthy"
    table = stream(even)
    first = (table["layer"] == 1) & (table["direction"] == "backward")
    table.loc[first, "second_moment"] = 121.0
    assert verdict(table) == "gradient explodes"


@pytest.mark.parametrize(
    ("shares", "word"),
    [
        ([0.004] * 20, "idle"),
        ([0.006] * 20, "healthy"),
        ([0.0] * 20, "idle"),
        ([0.4, 0.4] + [0.03] * 18, "front-loaded"),
        ([0.2, 0.2] + [0.03] * 18, "healthy"),
        ([0.4] + [0.03] * 8, "healthy"),  # fewer than ten have no tenth
    ],
)
def test_branches_that_do_nothing_or_all_at_the_start_are_told(
    shares: list[float], word: str
) -> None:
    assert verdict(stream(shares)) == word
    judged = judge(stream(shares))
    assert judged["share"].iloc[-1] == pytest.approx(np.sum(shares))
    tenth = math.ceil(len(shares) / 10)
    if len(shares) >= 10 and any(shares):
        assert judged["front"].iloc[-1] == pytest.approx(np.sum(shares[:tenth]) / np.sum(shares))
    else:
        assert judged["front"].isna().all()


def test_plain_stacks_beside_streams_are_judged_as_alone() -> None:
    alone = wild(3)
    alone["branch_share"] = alone["pair_correlation"] = math.nan
    both = judge(pd.concat([alone, stream([0.1] * 12)], ignore_index=True))
    got = both.loc[["mlp"], ["rms", "correlation", "gradient", "verdict"]]
    told = judge(wild(3))[["rms", "correlation", "gradient", "verdict"]]
    got, told = (rows.reset_index().astype({"verdict": str}) for rows in (got, told))
    names = ["network", "init", "activation"]
    pd.testing.assert_frame_equal(
        got.astype(dict.fromkeys(names, str)), told.astype(dict.fromkeys(names, str))
    )


@pytest.mark.parametrize("value", ["3", None, True, math.nan, math.inf, -1, 0, b"x"])
@pytest.mark.parametrize("name", ["factor", "correlation", "gradient_factor"])
def test_limits_that_are_no_limits_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} is .*: it must be .*, such as"):
        Limits(**{name: value})
