from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch import Generator

import initstats as ist
from initstats.foundations import Evidence, lesson, measure, steps, timings, write_lesson
from initstats.foundations.draws import repeat_draws
from initstats.foundations.experiments import deep_means
from initstats.foundations.published import PUBLISHED, Published
from initstats.plots import FIGURES, of_page
from initstats.report.page import Files

ROOT = Path(ist.__file__).parents[1]
STEPS = ["simplified kaiming", "relu", "kaiming", "torch's kaiming", "relu - 0.5"]
"""Those whose numbers are drawn."""
COLUMNS = ["step", "quantity", "published", "mean", "low", "high", "inside"]


@pytest.fixture(scope="module")
def evidence() -> Iterator[Evidence]:
    """All of it, of fewer draws, and with timings of fewer samples."""
    with pytest.MonkeyPatch.context() as patch:
        quick = partial(timings, samples=2000)
        patch.setattr("initstats.foundations.evidence.timings", quick)
        yield measure(seeds=300, workers=1)


def test_a_seed_is_the_lessons_own_line(mnist: ist.Dataset) -> None:
    x = mnist.valid.x[:700]
    drawn = repeat_draws(x, seeds=23)
    for seed in (0, 19, 20, 22):
        w = steps.simplified_kaiming(784, 50, Generator().manual_seed(seed))
        h = steps.lin(x.double(), w.double(), torch.zeros(50))
        two = 2**0.5
        expected = {
            "simplified kaiming": h,
            "relu": steps.relu(h),
            "kaiming": steps.relu(two * h),
            "torch's kaiming": steps.relu(two * h),
            "relu - 0.5": steps.shifted_relu(two * h),
        }
        for step, t in expected.items():
            mean, std = (float(drawn[step, quantity][seed]) for quantity in ("mean", "std"))
            assert mean == pytest.approx(float(t.mean()), abs=2e-6), (seed, step)
            assert std == pytest.approx(float(t.std()), rel=2e-6), (seed, step)


def test_the_three_draws_are_one_draw_scaled() -> None:
    simple, two, torch_s = (
        fill(784, 50, Generator().manual_seed(5))
        for fill in (steps.simplified_kaiming, steps.kaiming, steps.torch_kaiming)
    )
    torch.testing.assert_close(two, simple * 2**0.5)
    torch.testing.assert_close(torch_s, two)
    leaky = steps.kaiming(784, 50, Generator().manual_seed(5), a=2.0)
    torch.testing.assert_close(leaky, simple * (2 / 5) ** 0.5)


def test_a_seed_does_not_depend_on_its_company(mnist: ist.Dataset) -> None:
    x = mnist.valid.x[:300]
    pd.testing.assert_frame_equal(repeat_draws(x, 21).head(3), repeat_draws(x, 3), check_exact=True)
    many = repeat_draws(x, 41, workers=2)
    pd.testing.assert_frame_equal(many, repeat_draws(x, 41), check_exact=True)


def test_every_third_image_stands_for_all(mnist: ist.Dataset) -> None:
    whole, third = repeat_draws(mnist.valid.x, 20), repeat_draws(mnist.valid.x[::3], 20)
    assert len(mnist.valid.x[::3]) == 3334
    spread = {"mean": 0.075, "std": 0.033}  # of a draw, see the theory
    apart = (whole - third)["simplified kaiming"]
    for quantity, size in spread.items():
        assert float((apart[quantity] ** 2).mean()) ** 0.5 < 0.06 * size


def test_draws_spread_as_the_kernel_of_the_data_says(mnist: ist.Dataset) -> None:
    x = mnist.valid.x[::9].double()
    kernel = float(x.mean(0).square().mean())  # of pairs of images, all of them
    drawn = repeat_draws(x.float(), 400)["simplified kaiming", "mean"]
    predicted = (kernel / 50) ** 0.5
    assert drawn.std() == pytest.approx(predicted, rel=4 / (2 * 400) ** 0.5)
    assert abs(drawn.mean()) < 4 * predicted / 400**0.5


def test_every_row_of_the_lesson(evidence: Evidence) -> None:
    table = evidence.lesson
    assert list(table.columns) == COLUMNS
    assert table["inside"].dtype == "boolean"
    assert list(table["step"]) == [published.step for published in PUBLISHED]
    measured = table[table["step"] != "the open question"]
    assert measured[["mean", "low", "high"]].notna().to_numpy().all()
    assert (measured["low"] <= measured["high"]).all()


def test_what_is_compared_and_what_is_not(evidence: Evidence) -> None:
    table = evidence.lesson
    timed = table["quantity"].str.endswith(", ms")
    residue = (table["step"] == "normalize") & (table["quantity"] == "train mean")
    missing = timed | residue | table["published"].isna()
    assert table.loc[missing, "inside"].isna().all()
    assert table.loc[~missing, "inside"].notna().all()


def test_facts(evidence: Evidence) -> None:
    table = evidence.lesson.drop_duplicates(["step", "quantity"])
    facts = table.set_index(["step", "quantity"])["mean"].to_dict()
    assert facts["data", "train mean"] == pytest.approx(0.13045, abs=5e-6)
    assert facts["data", "train std"] == pytest.approx(0.30729, abs=5e-6)
    assert facts["normalize", "valid mean"] == pytest.approx(-0.00585, abs=5e-6)
    assert facts["check", "farthest of mean and std - 1"] < 1e-6
    assert facts["mse", "a batch of one: difference from torch"] == 0
    assert facts["gradients by hand", "largest difference from autograd"] < 1e-6


def test_the_one_published_fact_that_is_off_is_off_by_the_notebooks_own_residue(
    evidence: Evidence,
) -> None:
    table = evidence.lesson
    facts = table[~table["step"].isin(STEPS)]
    outside = facts[facts["inside"].eq(False).fillna(value=False)]
    assert list(outside["quantity"]) == ["valid mean"]
    residue = next(published for published in PUBLISHED if published.printed == "3.06e-05")
    corrected = float(outside["mean"].iloc[0]) + residue.value
    assert Published("", "", "-0.0058").inside(corrected, corrected)


def test_published_draws_lie_where_draws_lie(evidence: Evidence) -> None:
    table = evidence.lesson
    drawn = table[table["step"].isin(STEPS)]
    assert len(drawn) == 18
    for _, row in drawn.iterrows():
        values = evidence.draws[row["step"], row["quantity"]]
        assert row["mean"] == pytest.approx(values.mean())
        assert values.min() <= row["low"] < row["mean"] < row["high"] <= values.max()
        # too few draws for their own ends: as far out as 99.9% of a normal reach
        assert abs(row["published"] - row["mean"]) < 3.29 * values.std()


def test_the_lesson_alone(evidence: Evidence) -> None:
    table = lesson(seeds=40)
    assert list(table.columns) == COLUMNS
    first, more = (rows[rows["inside"].notna()] for rows in (table, evidence.lesson))
    np.testing.assert_allclose(first["mean"], more["mean"], rtol=0.1, atol=0.05)


def test_inside_is_to_the_printed_digits() -> None:
    assert Published("", "", "0.1304").inside(0.13044, 0.13044)
    assert not Published("", "", "0.1304").inside(0.13046, 0.13046)
    assert Published("", "", "50000").inside(50000, 50000)
    assert Published("", "", "-0.05").inside(-0.04, 0.04) is False
    assert Published("", "", "").inside(0, 1) is None
    assert Published("", "", "2.56", comparable=False).inside(0, 9) is None


def test_the_gradients_of_the_functions() -> None:
    generator = Generator().manual_seed(0)
    x, y = torch.randn(6, 784, generator=generator), torch.arange(6.0)
    w1, w2 = steps.kaiming(784, 50, generator), steps.kaiming(50, 1, generator)
    weights = w1, torch.zeros(50), w2, torch.zeros(1)
    tensors = [tensor.requires_grad_() for tensor in (x, *weights)]
    loss = steps.mse(steps.forward(*tensors)[-1], y)
    expected = torch.autograd.grad(loss, tensors)
    with torch.no_grad():
        by_hand = steps.backward(x, y, steps.forward(*tensors), w1, w2)
        model = steps.layers(*weights, weight_gradient="einsum")
        model(x, y)
        model.backward()
    first, last = model.layers[0].gradients, model.layers[2].gradients
    parameters = [kept[name] for kept in (first, last) for name in ("weight", "bias")]
    by_layers = [model.gradients["input"], *parameters]
    for one, two, three in zip(by_hand, by_layers, expected, strict=True):
        assert float((one - three).norm() / three.norm()) < 1e-6
        assert float((two - three).norm() / three.norm()) < 1e-6


def test_torch_layers_draw_nothing() -> None:
    before = torch.random.get_rng_state()
    net = steps.torch_layers(torch.ones(4, 3), torch.ones(3), torch.ones(3, 1), torch.ones(1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert net(torch.ones(2, 4)).tolist() == [[16.0], [16.0]]


def test_timings() -> None:
    table = timings(samples=20_000, rounds=2)
    assert list(table.columns) == [
        *("implementation", "direction", "ms", "ms_low", "ms_high"),
        *("ratio", "ratio_low", "ratio_high", "at_once", "peak_mib"),
    ]
    names = ["functions, outer product", "classes, outer product"]
    names += ["Module, einsum", "Module, matmul", "torch"]
    assert list(table["implementation"].unique()) == names
    assert len(table) == 2 * len(names)
    assert (table["ms_low"] <= table["ms"]).all()
    assert (table["ms"] <= table["ms_high"]).all()
    assert set(table["at_once"]) == {500, 20_000}
    backward = table[table["direction"] == "backward"].set_index("implementation")
    assert (backward.loc["torch", ["ratio", "ratio_low", "ratio_high"]] == 1).all()
    assert backward.loc["Module, matmul", "at_once"] == 20_000  # nothing is sliced in silence
    if Path("/proc/self/clear_refs").exists():
        peak = backward["peak_mib"]
        assert 0.9 * 500 * 784 * 50 * 4 / 2**20 < peak["classes, outer product"] < 200
        assert 0.9 * 20_000 * 784 * 4 / 2**20 <= peak["torch"] < 400


def test_timings_need_samples() -> None:
    with pytest.raises(ValueError, match="timings take samples and rounds: got 0 and 5"):
        timings(samples=0)


def test_a_leak_and_its_formula(evidence: Evidence) -> None:
    by_leak = evidence.leaks.groupby("leak")[["std", "formula", "activation"]].mean()
    np.testing.assert_allclose(by_leak["std"], by_leak["formula"], rtol=0.1)
    assert by_leak["formula"].loc[1.0] == pytest.approx(by_leak["formula"].loc[0.0] / 2**0.5)
    assert (by_leak["activation"] - 0.97).abs().max() < 0.1


def test_subtracting_a_half_overshoots_below_the_first_layer(mnist: ist.Dataset) -> None:
    means = deep_means(mnist, seeds=20).groupby(["activation", "layer"])["mean"].mean()
    assert abs(means["relu - 0.5", 1]) < 0.1
    assert means["relu - 0.5", 20] == pytest.approx(-0.25, abs=0.05)
    assert means["relu", 1] - means["relu - 0.5", 1] == pytest.approx(0.5, abs=1e-5)


def test_torchs_default_loses_the_signal(evidence: Evidence) -> None:
    table = evidence.defaults
    forward = table[(table["tensor"] == "activation") & (table["direction"] == "forward")]
    size = forward.groupby(["network", "init", "layer"])["size"].mean()
    for network in ("mlp", "cnn"):
        assert size[network, "torch_default", 4] < 0.15 * size[network, "kaiming_normal", 4]
    q = size["mlp", "torch_default", 1] ** 2
    assert q == pytest.approx(0.985 / 6, rel=0.1)  # sigma_w^2 / 2 = 1/6, and the images' size


def _plain(html: str) -> str:
    """HTML with a typist's apostrophes and minuses."""
    return unescape(html).replace("’", "'").replace("−", "-")


def test_the_page(evidence: Evidence, tmp_path: Path) -> None:
    page = write_lesson(tmp_path / "new" / "lesson", evidence)
    html = page.read_text()
    table = evidence.lesson
    for step, quantity in table.loc[table["mean"].notna(), ["step", "quantity"]].to_numpy():
        assert f'<td class="text">{step}</td><td class="text">{quantity}' in _plain(html)
    assert html.count("<h2") == 11
    assert "def simplified_kaiming(inputs: int, units: int, generator: Generator)" in html
    assert "class Module:" in html
    assert "Attributes:" not in html  # docstrings are cut, code is not
    assert "return self.gradients[&#34;input&#34;]" in html
    assert html.count("<svg") == 5
    assert not re.search(r'(src|href)="(https?:)?//', html)
    assert str(tmp_path) not in html
    for row in PUBLISHED:
        assert row.printed.replace("-", "−") in html
    written = [path for path in page.parent.rglob("*") if path.is_file()]
    files = {str(path.relative_to(page.parent)) for path in written}
    assert {"index.html", "lesson.csv", "timings.csv", "draws.csv"} < files
    assert len(files) == 4 + 2 * 5
    again, draws = (pd.read_csv(page.parent / name) for name in ("lesson.csv", "draws.csv"))
    assert list(again.columns) == COLUMNS
    assert list(draws.columns)[:2] == ["seed", "simplified kaiming: mean"]


def test_the_page_says_what_was_measured(evidence: Evidence, tmp_path: Path) -> None:
    table = evidence.lesson.copy()
    table.loc[table["step"] == "kaiming", "inside"] = False
    page = write_lesson(tmp_path, evidence._replace(lesson=table), Files(False))
    html = page.read_text()
    inside = int(table[table["step"].isin(STEPS)]["inside"].sum())
    assert f"{inside} of the 18 published numbers that are random draws lie in" in html
    assert html.count('<td class="word is-no">no</td>') >= 4


def test_names_load_on_first_use() -> None:
    assert ist.foundations.lesson is lesson
    with pytest.raises(AttributeError, match="no attribute 'lessons'"):
        ist.foundations.lessons  # type: ignore[attr-defined]  # noqa: B018


def test_figures_are_drawn_from_tables_alone() -> None:
    code = "import sys, initstats.foundations.figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# figures


def test_the_histograms_hold_every_draw_and_every_mark(evidence: Evidence) -> None:
    frame = FIGURES["published_draws"].frame(evidence)
    for (step, quantity), rows in frame.groupby(["step", "quantity"]):
        draws = evidence.draws[step, quantity]
        bins = rows[rows["kind"] == "draws"]
        assert bins["count"].sum() == len(draws)
        assert (bins["low"].min(), bins["high"].max()) == (draws.min(), draws.max())
        own = evidence.lesson[evidence.lesson["step"] == step]
        middle = rows[rows["kind"] == "middle"].iloc[0]
        assert middle["low"] == own.loc[own["quantity"] == quantity, "low"].iloc[0]
    marks = frame[frame["kind"] == "published"]
    assert len(marks) == 18
    assert marks["source"].str.endswith("(torch)").sum() == 2


def test_means_over_seeds_stand_beside_the_seeds(evidence: Evidence) -> None:
    frame = FIGURES["relu_and_shifted"].frame(evidence)
    means = frame[frame["seed"].isna()].set_index(["activation", "quantity", "layer"])["value"]
    rows = evidence.deep_means
    here = rows[(rows["activation"] == "relu - 0.5") & (rows["layer"] == 7)]
    assert means["relu - 0.5", "std", 7] == pytest.approx(here["std"].mean())
    sizes = FIGURES["sqrt_five"].frame(evidence)
    middle = sizes[sizes["seed"].isna()].set_index(["network", "passes", "init", "layer"])["value"]
    table = evidence.defaults.query(
        "network == 'cnn' and init == 'torch_default' and layer == 2 "
        "and tensor == 'preactivation' and direction == 'backward'"
    )
    expected = np.exp(np.log(table["size"]).mean())
    assert middle["cnn", "gradients", "torch_default", 2] == pytest.approx(expected)


def test_bars_are_the_middle_of_the_draws(evidence: Evidence) -> None:
    frame = FIGURES["leak"].frame(evidence)
    draws = evidence.leaks[evidence.leaks["leak"] == 0.5]
    row = frame[(frame["quantity"] == "rms") & (frame["leak"] == 0.5)].iloc[0]
    assert row["mean"] == pytest.approx(draws["activation"].mean())
    assert row["high"] == pytest.approx(draws["activation"].quantile(0.975))
    assert row["formula"] == draws["formula"].iloc[0]


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize("width", [3.3, 5, 9])
def test_no_text_is_cut_or_overlaps(
    width: float, evidence: Evidence, faults: Callable[[Figure], list[str]]
) -> None:
    found = {picture.name: faults(picture.draw(evidence, width)) for picture in of_page("lesson")}
    assert len(found) == 5
    assert not any(found.values()), found
