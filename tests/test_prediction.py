"""Predicted rows against sweeps of a small dataset, and the score itself against arithmetic."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from threadpoolctl import threadpool_limits

import initstats as ist
from initstats import activations, inits
from initstats.prediction import COMPARED, KEYS, compare_with_theory, predict
from initstats.prediction.samples import Samples
from initstats.store import load_predictions
from initstats.theory.pairs import _series

SEEDS = 80


@pytest.fixture(scope="module")
def measured(toy: ist.Dataset) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A table with many seeds, and its prediction."""
    grid = ist.Grid(
        inits=["matched", "torch_default", "orthogonal", "xavier_uniform(gain=1.2)"],
        activations=["relu", "tanh", "shifted_relu", "selu"],
        widths=[30],
        depth=5,
        seeds=SEEDS,
        split="train",
    )
    return ist.run_sweep(grid, toy), predict(grid, toy)


def _select(table: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    for name, value in wanted.items():
        table = table[table[name] == value]
    return table


def test_rows_are_the_sweeps(measured: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    table, predicted = measured
    keys = table[table["seed"] == 0].drop(columns="seed")[KEYS].reset_index(drop=True)
    pd.testing.assert_frame_equal(predicted[KEYS], keys)
    extra = ["second_moment_spread", "second_moment_error", "claim", "note"]
    assert list(predicted) == [*table.columns.drop("seed"), *extra]
    assert predicted["count"].isna().all()
    assert (predicted["note"].str.len() > 0).mean() < 0.2


def test_second_moments_agree_with_theory(measured: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    scored = compare_with_theory(*measured)
    z = _select(scored, statistic="second_moment")["z"]
    assert z.notna().all()
    assert z.abs().max() < 4
    assert 0.4 < z.std() < 1.3  # neither wrong nor without a claim
    for statistic in ("mean", "abs_mean"):
        means = _select(scored, statistic=statistic)["z"]
        assert means.notna().all()
        assert means.abs().max() < 4.5  # not followed beyond the first order either
    assert _select(scored, statistic="abs_mean")["z"].std() < 1.3


def test_the_spread_of_draws_is_theorys(measured: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    table, predicted = measured
    spread = table.groupby(KEYS, observed=True, sort=False)["second_moment"].std().to_numpy()
    ratio = spread / predicted["second_moment_spread"].to_numpy()
    exact = (predicted["second_moment_spread"] < 1e-6 * predicted["second_moment"]).to_numpy()
    calm = ((predicted["note"] == "") & ~exact).to_numpy()
    # a standard deviation over SEEDS has a relative error of 8%, more where tails are heavy
    assert np.median(ratio[calm]) == pytest.approx(1, abs=0.1)
    assert ratio[calm].max() < 1.6
    assert ratio[calm].min() > 0.6


def test_spread_over_units_and_samples(measured: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    scored = compare_with_theory(*measured)
    for name in ("std", "unit_mean_std", "sample_correlation", "negative_fraction"):
        rows = _select(scored, statistic=name, init="matched", layer=2)
        assert len(rows) == 8
        np.testing.assert_allclose(rows["measured"], rows["predicted"], rtol=0.1, atol=0.01)
        assert rows["z"].isna().all()  # theory is not about the mean of these
    zero = _select(scored, statistic="zero_fraction", activation="relu", tensor="activation")
    np.testing.assert_allclose(zero["predicted"], 0.5)


def test_first_layer_is_exact(toy: ist.Dataset) -> None:
    width = 16
    grid = ist.Grid(inits=["lecun_normal"], activations=["relu"], widths=[width], depth=1, seeds=1)
    first = predict(grid, toy).iloc[0]
    x = toy.valid.x.double()
    kernel = (x @ x.T / x.shape[1]).numpy()
    q, kappa = kernel.diagonal().mean(), kernel.mean()
    assert first["second_moment"] == pytest.approx(q, rel=1e-6)
    between = kernel[~np.eye(len(kernel), dtype=bool)].mean()
    assert first["sample_correlation"] == pytest.approx(between / q, rel=1e-6)
    assert first["unit_mean_std"] == pytest.approx(math.sqrt(kappa * (1 - 1 / width)), rel=1e-6)
    assert first["std"] == pytest.approx(math.sqrt(q - kappa / width), rel=1e-6)
    spread = math.sqrt(2 * (kernel**2).mean() / width)
    assert first["second_moment_spread"] == pytest.approx(spread, rel=0.1)  # from 2048 pairs
    roots = np.sqrt(kernel.diagonal() / (2 * math.pi))
    behind = predict(grid, toy).iloc[1]
    assert behind["mean"] == pytest.approx(roots.mean(), rel=1e-4)


@pytest.mark.parametrize("samples", [1, 2, 16])
def test_few_samples_are_correlated_as_predicted(toy: ist.Dataset, samples: int) -> None:
    grid = ist.Grid(
        inits=["matched", "torch_default"],
        activations=["relu", "tanh"],
        widths=[300],
        depth=4,
        seeds=30,
        samples=samples,
        split="train",
    )
    found = ist.run_sweep(grid, toy).groupby(KEYS, observed=True, sort=False)["sample_correlation"]
    predicted = predict(grid, toy)["sample_correlation"].to_numpy()
    if samples == 1:
        assert np.isnan([*found.mean(), *predicted]).all()
        return
    z = (found.mean() - predicted) / found.sem()
    assert z.abs().max() < 4.5
    assert found.sem().max() < 0.02  # and yet the error of one pair with itself would be seen


def test_samples_of_nearly_one_length_go_together() -> None:
    x = np.random.default_rng(3).uniform(0, 255, (5000, 6)).astype(np.uint8)
    data = ist.Dataset.from_arrays((x, np.zeros(5000, dtype=int)), (x[:9], np.zeros(9, dtype=int)))
    inputs, x = Samples(data.train), data.train.x.double().numpy()
    exact = (x**2).mean(1)
    assert len(inputs.q) == 1024
    assert inputs.weights.sum() == pytest.approx(1)
    assert inputs.mean(inputs.q) == pytest.approx(exact.mean(), rel=1e-12)
    assert inputs.mean(np.sqrt(inputs.q)) == pytest.approx(np.sqrt(exact).mean(), rel=1e-4)
    c = inputs.k / np.sqrt(inputs.products(inputs.q))
    assert np.abs(c).max() < 1 + 1e-6
    lengths = np.linalg.norm(x, axis=1)
    cosines = (x @ x.T) / np.outer(lengths, lengths)
    error = cosines.std() / math.sqrt(len(c))
    assert c.mean() == pytest.approx(cosines.mean(), abs=4 * error)
    assert inputs.pair_mean(inputs.k) == pytest.approx((x.mean(0) ** 2).mean(), rel=1e-5)


def test_torchs_biases_are_uniform(toy: ist.Dataset) -> None:
    width = 400
    grid = ist.Grid(inits=["torch_default"], activations=["relu"], widths=[width], depth=8, seeds=1)
    found = predict(grid, toy).iloc[-1]["mean"]  # samples are all alike there: q = 0.4 / width
    s, bound = math.sqrt(0.4 / 6 / width), 1 / math.sqrt(width)
    b = torch.linspace(-bound, bound, 10_001, dtype=torch.float64)
    density = torch.exp(-((b / s) ** 2) / 2) / math.sqrt(2 * math.pi)
    mean = float((s * density + b * torch.special.ndtr(b / s)).mean())
    assert found == pytest.approx(mean, rel=5e-3)  # were they normal, 5.4% less


def test_gradients(toy: ist.Dataset) -> None:
    grid = ist.Grid(
        inits=["kaiming_normal", "xavier_normal"],
        activations=["relu", "leaky_relu(negative_slope=0.3)", "tanh"],
        widths=[24],
        depth=4,
        seeds=40,
        backward=True,
    )
    predicted = predict(grid, toy)
    compared = compare_with_theory(ist.run_sweep(grid, toy), predicted)
    scored = _select(compared, statistic="second_moment")
    backward = _select(scored, direction="backward")
    assert len(backward) == 4 * 6 * 2
    exact = backward["activation"] != "tanh"
    assert not backward[exact]["note"].str.contains("independent").any()
    assert backward[exact]["z"].abs().max() < 4
    tanh = _select(backward[~exact], layer=2)
    assert tanh["note"].str.contains("weights as independent").all()
    np.testing.assert_allclose(tanh["measured"], tanh["predicted"], rtol=0.3)
    last = _select(predicted, layer=4, tensor="activation", direction="backward")
    np.testing.assert_allclose(last["second_moment"], 1)


def test_convolutions(toy: ist.Dataset) -> None:
    grid = ist.Grid(
        inits=["kaiming_normal", "torch_default"],
        activations=["relu", "tanh"],
        network="cnn",
        widths=[8],
        depth=5,
        seeds=40,
        backward=True,
    )
    predicted = predict(grid, toy)
    compared = compare_with_theory(ist.run_sweep(grid, toy), predicted)
    sizes = _select(compared, statistic="abs_mean", direction="forward")
    assert sizes["z"].isna().all()  # theory knows them for infinitely many channels
    np.testing.assert_allclose(sizes["measured"], sizes["predicted"], rtol=0.25)
    scored = _select(compared, statistic="second_moment")
    relu = _select(scored, activation="relu")
    assert (relu["note"] == "").all()
    assert relu["z"].abs().max() < 4
    tanh = _select(scored, activation="tanh", tensor="activation", direction="forward")
    assert tanh["note"].str.contains("not known for convolutions").all()
    np.testing.assert_allclose(tanh["measured"], tanh["predicted"], rtol=0.25)
    assert (
        _select(scored, activation="tanh", layer=1, tensor="preactivation", direction="forward")[
            "note"
        ]
        .eq("")
        .all()
    )


def test_where_theory_says_nothing(toy: ist.Dataset) -> None:
    grid = ist.Grid(
        inits=["lsuv", "identity", "zeros", "normal(std=1e-30)", "normal(std=1e+20)"],
        activations=["relu", "squared_relu"],
        widths=[12],
        depth=3,
        seeds=2,
        backward=True,
    )
    predicted = predict(grid, toy)
    scored = _select(
        compare_with_theory(ist.run_sweep(grid, toy), predicted), statistic="second_moment"
    )
    fitted = _select(scored, init="lsuv")
    assert fitted["note"].str.contains("fitted to data").all()
    assert fitted[["predicted", "z"]].isna().all().all()
    eye = _select(scored, init="identity", direction="forward")
    assert eye[eye["layer"] == 1]["z"].abs().max() < 4
    assert eye[eye["layer"] > 1]["predicted"].isna().all()
    assert eye[eye["layer"] > 1]["note"].str.contains("passes its input on").all()
    nothing = _select(scored, init="zeros", direction="forward")
    assert (nothing[["predicted", "measured", "z"]] == 0).all().all()
    for init, activation in (("normal(std=1e-30)", "relu"), ("normal(std=1e+20)", "relu")):
        far = _select(scored, init=init, activation=activation, direction="forward")
        assert far["note"].iloc[-1] == "the signal leaves the range of float32"
        assert far["predicted"].isna().iloc[-1]
        assert far["z"].abs().iloc[0] < 4


def test_images_whose_signal_leaves_float64(toy: ist.Dataset) -> None:
    grid = ist.Grid(
        network="cnn",
        inits=["normal(std=1e+20)"],
        activations=["squared_relu"],
        widths=[2],
        depth=6,
        seeds=1,
    )
    predicted = predict(grid, toy)
    assert predicted["second_moment"].notna().tolist() == [True, *11 * [False]]
    assert predicted["note"].iloc[-1] == "the signal leaves the range of float32"


def test_words_of_caution(toy: ist.Dataset) -> None:
    grid = ist.Grid(
        inits=["kaiming_normal"],
        activations=["relu", "squared_relu"],
        widths=[30],
        depth=5,
        seeds=1,
    )
    predicted = _select(predict(grid, toy), tensor="activation").set_index("layer")
    relu, square = (_select(predicted, activation=name) for name in ("relu", "squared_relu"))
    assert relu["note"][1] == square["note"][1] == ""
    assert relu["note"][5].startswith("beta = 0.")
    assert relu["second_moment"][5] == pytest.approx(relu["second_moment"][1])
    assert "width 30 shifts q by 74%" in square["note"][3]
    assert "growing as chi_q = " in square["note"][3]
    assert "by more than its size" in square["note"][5]
    assert math.isnan(square["second_moment"][5])


def test_inits_of_ones_own_declare_what_theory_asks_for(toy: ist.Dataset) -> None:
    theirs = [inits.get("orthogonal"), inits.get("torch_default")]
    own = [replace(init, name=f"own_{init.name}") for init in theirs]
    silent = [replace(init, orthogonal=False, uniform_bias=False) for init in theirs]
    rows = []
    for some in (theirs, own, silent):
        grid = ist.Grid(inits=some, activations=["relu"], widths=[12], depth=3, seeds=1)
        rows.append(predict(grid, toy).drop(columns="init"))
    pd.testing.assert_frame_equal(rows[0], rows[1])
    assert (rows[0]["second_moment_spread"] < rows[2]["second_moment_spread"]).all()


def test_functions_without_moments(toy: ist.Dataset) -> None:
    def explosive(x: torch.Tensor) -> torch.Tensor:
        return torch.exp(x * x)

    grid = ist.Grid(inits=["lecun_normal"], activations=[explosive], widths=[4], depth=2, seeds=1)
    predicted = predict(grid, toy)
    assert predicted["second_moment"].isna().all()
    assert predicted["note"].str.contains("does not exist").all()


def test_predictions_do_not_look_at_seeds(toy: ist.Dataset) -> None:
    one, many = (
        ist.Grid(inits=["lecun_normal"], activations=["tanh"], widths=[5], depth=2, seeds=seeds)
        for seeds in (1, [3, 8])
    )
    pd.testing.assert_frame_equal(predict(one, toy), predict(many, toy))


def test_progress_is_told(toy: ist.Dataset) -> None:
    told: list[tuple[int, int]] = []
    grid = ist.Grid(inits=["zeros"], activations=["relu", "tanh"], widths=[5, 6], depth=1)
    predict(grid, toy, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 4) for done in range(5)]


def test_no_such_split() -> None:
    x, y = np.random.default_rng(0).normal(size=(8, 4)), np.zeros(8, dtype=int)
    data = ist.Dataset.from_arrays((x, y), (x, y))
    grid = ist.Grid(inits=["lecun_normal"], activations=["tanh"], depth=1, split="test")
    with pytest.raises(ValueError, match="has no 'test' split"):
        predict(grid, data)


# the score


def _frames(measured: list[float], spread: float, left_out: float) -> list[pd.DataFrame]:
    key = dict(zip(KEYS, ["toy", "mlp", "a", "b", 5, 1, "activation", "forward"], strict=True))
    statistics = dict.fromkeys(COMPARED, 2.0)
    table = [
        {**key, "seed": seed, **dict.fromkeys(COMPARED, each)} for seed, each in enumerate(measured)
    ]
    row = {**key, **statistics, "second_moment_spread": spread, "note": "hm"}
    row |= {"second_moment_error": left_out}
    return [pd.DataFrame(table), pd.DataFrame([row])]


@pytest.mark.parametrize(
    ("spread", "left_out", "variance"),
    [
        (0.1, 0.0, 1 / 3),  # seeds show more than theory expects
        (3.0, 0.0, 9 / 3),  # theory expects more
        (math.nan, 0.0, 1 / 3),
        (3.0, 0.5, 9 / 3 + 0.25),
    ],
)
def test_z_is_arithmetic(spread: float, left_out: float, variance: float) -> None:
    scored = compare_with_theory(*_frames([2.0, 3.0, 4.0], spread, left_out)).set_index("statistic")
    assert list(scored.index) == list(COMPARED)
    assert scored.loc["second_moment", "z"] == pytest.approx(1 / math.sqrt(variance), rel=1e-4)
    assert scored.loc["mean", "z"] == pytest.approx(math.sqrt(3), rel=1e-4)
    assert scored.loc["std", "measured"] == pytest.approx(math.sqrt(29 / 3))
    assert scored["z"].isna()["std"]
    assert scored["seeds"].eq(3).all()
    assert scored["note"].eq("hm").all()


def test_one_seed_has_theorys_error_only() -> None:
    scored = compare_with_theory(*_frames([3.0], 0.5, 0.0)).set_index("statistic")
    assert scored.loc["second_moment", "z"] == pytest.approx(2, rel=1e-4)
    assert scored["z"].isna()["mean"]


def test_tables_that_do_not_match() -> None:
    table, predicted = _frames([3.0], 0.5, 0.0)
    with pytest.raises(ValueError, match="table lacks layer: is it from run_sweep"):
        compare_with_theory(table.drop(columns="layer"), predicted)
    with pytest.raises(ValueError, match="no row of the table was predicted"):
        compare_with_theory(table.assign(width=6), predicted)
    with pytest.raises(ValueError, match="predicted lacks second_moment_spread, .*from predict"):
        compare_with_theory(table, table)
    with pytest.raises(ValueError, match="table lacks seed: is it from run_sweep"):
        compare_with_theory(predicted, predicted)


# kept with a run


def test_a_run_keeps_its_predictions_and_only_adds_to_them(
    toy: ist.Dataset, tmp_path: Path
) -> None:
    relu = ist.Grid(inits=["matched", "zeros"], activations=["relu"], widths=[6], depth=2, seeds=3)
    ist.run_sweep(relu, toy, out=tmp_path)
    told: list[tuple[int, int]] = []
    kept = ist.predict_run(tmp_path, toy, progress=lambda *now: told.append(now))
    assert told[-1] == (2, 2)
    # gradients, too, which were not measured
    whole = predicted(relu.model_copy(update={"backward": True}), toy)
    pd.testing.assert_frame_equal(kept[[*whole]], whole)
    kept = kept[kept["direction"] == "forward"]
    scored = ist.compare_with_theory(ist.load_table(tmp_path), kept).query(
        "statistic == 'second_moment'"
    )
    assert kept["z"].tolist() == pytest.approx(scored["z"].tolist(), nan_ok=True)
    assert (kept["seeds"] == 3).all()
    both = relu.model_copy(
        update={"activations": ist.Grid(activations=["relu", "tanh"]).activations}
    )
    more = both.model_copy(update={"seeds": tuple(range(5))})
    ist.run_sweep(more, toy, out=tmp_path)
    told.clear()
    again = ist.predict_run(tmp_path, toy, progress=lambda *now: told.append(now))
    assert told[-1] == (2, 2)  # tanh alone
    assert (again["seeds"] == 5).where(again["direction"] == "forward", True).all()
    there = load_predictions(tmp_path)
    assert there is not None
    pd.testing.assert_frame_equal(again, there, check_dtype=False)
    told.clear()
    ist.predict_run(tmp_path, toy, progress=lambda *now: told.append(now))
    assert told == []


def predicted(grid: ist.Grid, data: ist.Dataset) -> pd.DataFrame:
    """As the folder keeps words and whole numbers."""
    rows = ist.predict(grid, data)
    return rows.astype({name: "str" for name in KEYS if rows[name].dtype == "category"})


def test_a_run_whose_data_are_not_at_hand(toy: ist.Dataset, tmp_path: Path) -> None:
    grid = ist.Grid(
        inits=["matched"], activations=["relu"], widths=[6], depth=2, seeds=2, samples=30
    )
    ist.run_sweep(grid, toy, out=tmp_path)
    with pytest.raises(ValueError, match=r"cannot be loaded again \(.*\): pass them, predict_run"):
        ist.predict_run(tmp_path)
    other = ist.Dataset.from_arrays(
        (toy.train.raw + 1, toy.train.y), (toy.valid.raw, toy.valid.y), name="toy"
    )
    with pytest.raises(ValueError, match="was measured with other data than these of 'toy'"):
        ist.predict_run(tmp_path, other)
    assert load_predictions(tmp_path) is None


def test_bits_do_not_hang_on_the_threads_of_products() -> None:
    q, found = np.linspace(0.1, 9, 3000), []
    for threads in (1, 2):
        with threadpool_limits(limits=threads, user_api="blas"):
            found.append(_series.__wrapped__(activations.get("leaky_relu")).at(q))  # nothing kept
    np.testing.assert_array_equal(found[0], found[1])
