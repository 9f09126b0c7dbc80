"""Two runs side by side: numbers against scipy, sentences from planted tables."""

from __future__ import annotations

import math
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

import initstats as ist
from initstats.differences import Pair
from initstats.differences.ends import ends, shown_differences
from initstats.plots import FIGURES, Results, of_page
from initstats.plots.sides import Comparison
from initstats.report import changes, sides

INITS, ACTIVATIONS = ("normal", "orthogonal"), ("relu", "tanh")
BASE = {
    "count": 1000,
    "nonfinite": 0,
    "infinite": 0,
    "mean": 0.0,
    "std": 1.0,
    "second_moment": 1.0,
    "dead_fraction": 0.0,
    "sample_correlation": 0.3,
}


def study(
    *,
    seeds: Any = 3,
    depth: int = 4,
    inits: Any = INITS,
    activations: Any = ACTIVATIONS,
    widths: Any = (50,),
    dataset: str = "mnist",
    spread: float = 0.1,
    backward: bool = False,
) -> pd.DataFrame:
    """A healthy study, whose std differs from seed to seed."""
    seeds = range(seeds) if isinstance(seeds, int) else seeds
    tensors = [("preactivation", "forward"), ("activation", "forward")]
    tensors += [("preactivation", "backward")] * backward
    rows = [
        {
            "dataset": dataset,
            **dict(
                zip(("network", "init", "activation", "width", "seed", "layer"), key, strict=True)
            ),
            "tensor": tensor,
            "direction": direction,
            **BASE,
            "std": math.exp(spread * math.sin(7 * key[4] + key[5])),
        }
        for key in product(["mlp"], inits, activations, widths, seeds, range(1, depth + 1))
        for tensor, direction in tensors
    ]
    return pd.DataFrame(rows)


def planted(table: pd.DataFrame, where: str, **values: Any) -> pd.DataFrame:
    """The table with other values in some rows; a callable is given the old ones."""
    table = table.copy()
    chosen = table.query(where).index
    assert len(chosen)
    for name, value in values.items():
        table[name] = table[name].astype(float)
        table.loc[chosen, name] = value(table.loc[chosen]) if callable(value) else value
    return table


def row(frame: pd.DataFrame, where: str) -> Any:
    found = frame.query(where)
    assert len(found) == 1
    return found.iloc[0]


ONE = (
    "init == 'normal' and activation == 'relu' and layer == 4 and tensor == 'activation' "
    "and direction == 'forward'"
)


def random(seeds: Any, *, scale: float = 1.0, seed: int = 0) -> pd.DataFrame:
    draws = np.random.default_rng(seed)
    table = study(seeds=seeds)
    return table.assign(
        std=scale * np.exp(draws.normal(size=len(table))),
        mean=draws.normal(size=len(table)),
        dead_fraction=draws.uniform(size=len(table)),
    )


@pytest.mark.parametrize(
    ("seeds", "paired"),
    [((range(6), range(6)), 6), ((range(6), range(3, 12)), 3), ((range(4), range(9, 16)), 0),
     ((range(4), range(3, 8)), 0), ((range(4), [3]), 1), (([2], [2]), 1)],
)  # fmt: skip
@pytest.mark.parametrize(
    ("name", "log"), [("std", True), ("mean", False), ("dead_fraction", False)]
)
def test_intervals_are_scipys(seeds: Any, paired: int, name: str, log: bool) -> None:
    a, b = random(seeds[0]), random(seeds[1], scale=3.0, seed=1)
    found = row(ist.compare_runs(a, b, statistics=[name]), ONE)
    change = np.log if log else np.asarray
    series = [change(t.query(ONE).set_index("seed")[name]) for t in (a, b)]
    one, other = (pd.Series(s, t.query(ONE)["seed"]) for s, t in zip(series, (a, b), strict=True))
    shared = one.index.intersection(other.index)
    assert bool(found["paired"]) is (paired > 0)
    if paired:
        one, other = one[shared], other[shared]
        assert found["seeds_a"] == found["seeds_b"] == paired
    else:
        assert (found["seeds_a"], found["seeds_b"]) == (len(one), len(other))
    back = np.exp if log else np.asarray
    assert found["scale"] == ("log" if log else "linear")
    assert found["a"] == pytest.approx(back(one.mean()))
    assert found["b"] == pytest.approx(back(other.mean()))
    assert found["difference"] == pytest.approx(other.mean() - one.mean())
    if min(len(one), len(other)) < 2:
        assert math.isnan(found["low"])
        assert math.isnan(found["high"])
    else:
        both = (other, one)
        test = stats.ttest_rel(*both) if paired else stats.ttest_ind(*both, equal_var=False)
        interval = test.confidence_interval(0.95)
        assert found["low"] == pytest.approx(interval.low)
        assert found["high"] == pytest.approx(interval.high)


def test_nothing_is_left_out() -> None:
    a = study()
    zero = planted(a, f"{ONE} and seed == 1", std=0.0)
    found = row(ist.compare_runs(a, zero, statistics=["std"]), ONE)
    assert found["difference"] == -math.inf
    assert found["b"] == 0
    assert math.isnan(found["low"])
    both = row(ist.compare_runs(zero, zero, statistics=["std"]), ONE)
    assert both["difference"] == both["low"] == both["high"] == 0
    lost = planted(a, f"{ONE} and seed == 1", mean=math.nan)
    assert math.isnan(row(ist.compare_runs(a, lost, statistics=["mean"]), ONE)["difference"])


def test_an_overflow_is_infinitely_large() -> None:
    a = study()
    b = planted(a, f"{ONE} and seed == 1", nonfinite=250)
    found = ist.compare_runs(a, b)
    by = {name: row(rows, ONE) for name, rows in found.groupby("statistic", observed=True)}
    assert by["std"]["difference"] == by["second_moment"]["b"] == math.inf
    assert math.isnan(by["dead_fraction"]["difference"])
    assert by["nonfinite"]["difference"] == pytest.approx(0.25 / 3)
    assert "count" not in by


def test_a_registered_statistic_says_whether_it_is_a_size() -> None:
    sizes = {name for name, entry in ist.moments.STATISTICS.items() if entry.size}
    assert sizes == {
        *("std", "second_moment", "abs_mean", "unit_mean_std", "unit_std_mean", "unit_std_std")
    }


def test_the_columns_and_the_order_of_the_grid() -> None:
    a = study(widths=(50, 8)).astype({"init": pd.CategoricalDtype(["orthogonal", "normal"])})
    found = ist.compare_runs(a, a, statistics=["std", "mean"])
    assert list(found) == [
        *("statistic", "dataset", "network", "init", "activation", "width", "layer", "tensor"),
        *("direction", "a", "b", "difference", "low", "high", "scale", "seeds_a", "seeds_b"),
        *("paired", "measured"),
    ]
    assert list(found["init"].unique()) == ["orthogonal", "normal"]
    assert list(found["statistic"].unique()) == ["std", "mean"]
    assert len(found) == 2 * 2 * 2 * 2 * 4 * 2
    assert (found["difference"] == 0).all()


def test_other_grids_are_compared_where_they_meet() -> None:
    a = study(inits=("normal", "lsuv"), depth=6, widths=(50, 8))
    b = study(inits=("normal", "sparse"), depth=4, widths=(50, 100), seeds=2).drop(columns="mean")
    found = ist.compare_runs(a, b)
    shared = found[found["measured"] == "both"]
    assert {*shared["init"]} == {"normal"}
    assert {*shared["width"]} == {50}
    assert shared["layer"].max() == 4
    assert {*found[found["measured"] == "a"]["layer"]} == {*range(1, 7)}
    only = found[found["measured"] != "both"]
    assert only["difference"].isna().all()
    mean = found[found["statistic"] == "mean"]
    assert {*mean["measured"]} == {"a"}
    assert len(mean) == len(a) / 3
    pair = Pair.of(a, b)
    assert pair.alone() == {
        "init": (["lsuv"], ["sparse"]),
        "width": ([8], [100]),
        "layer": ([5, 6], []),
    }


@pytest.mark.parametrize(
    ("one", "other", "key"),
    [
        ({"dataset": "mnist"}, {"dataset": "fashion"}, "dataset"),
        ({"widths": (50,)}, {"widths": (99,)}, "width"),
        ({"inits": ("normal",)}, {"inits": ("lsuv",)}, "init"),
        ({"activations": ("relu",)}, {"activations": ("gelu",)}, "activation"),
    ],
)
def test_what_has_one_value_in_each_is_what_is_compared(one: Any, other: Any, key: str) -> None:
    pair = Pair.of(study(**one), study(**other))
    assert [*pair.compared] == [key]
    assert key not in pair.differences(["std"])
    assert (pair.places["measured"] == "both").all()
    assert pair.names[0] != pair.names[1]
    page = sides.compose(told(pair), None).html()
    assert all(name in page for name in pair.names)


def test_what_cannot_be_compared() -> None:
    a = study()
    with pytest.raises(ValueError, match="no place in common: width 1, 2 against 3, 4"):
        ist.compare_runs(
            study(inits=("normal",), widths=(1, 2)), study(inits=("lsuv",), widths=(3, 4))
        )
    with pytest.raises(ValueError, match="several rows for one place and seed"):
        ist.compare_runs(pd.concat([a, a]), a)
    with pytest.raises(ValueError, match="unknown statistic 'sdt': did you mean 'std'"):
        ist.compare_runs(a, a, statistics=["sdt"])
    with pytest.raises(ValueError, match="b has several rows for one place"):
        ist.compare_runs(a, a.drop(columns="seed"))
    with pytest.raises(ValueError, match="no rows: nothing was measured"):
        ist.compare_runs(a, a.iloc[:0])
    with pytest.raises(ValueError, match="expected to be compared, not int"):
        ist.compare_runs(a, 3)
    with pytest.raises(ValueError, match="neither a run's folder"):
        ist.compare_runs("nowhere", a)
    with pytest.raises(ValueError, match="a study and a model cannot be compared"):
        ist.compare_runs(a, measured(model()))
    with pytest.raises(ValueError, match="holds predictions"):
        ist.compare_runs(a, a.assign(count=math.nan))
    repair = pd.DataFrame({"std_before": [1.0], "std_after": [2.0], "outcome": ["done"]})
    with pytest.raises(ValueError, match="measure the model twice"):
        ist.compare_runs(repair, repair)


def model(seed: int = 0, scale: float = 1.0) -> nn.Module:
    layers = nn.Sequential(
        nn.Linear(5, 9), nn.ReLU(), nn.Sequential(nn.Linear(9, 9), nn.Tanh()), nn.Linear(9, 3)
    )
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layers.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=draw) / 3)
    return layers


BATCH = torch.randn(20, 5, generator=torch.Generator().manual_seed(5))


def measured(net: nn.Module) -> pd.DataFrame:
    return ist.measure(net, BATCH, backward=True)


def test_a_model_before_and_after_a_repair() -> None:
    net = model(scale=0.1)
    before = measured(net)
    ist.lsuv_(net, BATCH)
    with ist.Probe(net, backward=True) as probe:
        net(BATCH).pow(2).sum().backward()
    found = ist.compare_runs(before, probe, statistics=["std"])
    last = row(found, "name == '3' and tensor == 'preactivation' and direction == 'forward'")
    std = row(before, "name == '3' and tensor == 'preactivation' and direction == 'forward'")["std"]
    assert last["a"] == pytest.approx(std)
    assert last["b"] == pytest.approx(1.0, abs=0.1)
    assert last["difference"] == pytest.approx(math.log(last["b"] / last["a"]))
    assert math.isnan(last["low"])
    values = found.query("tensor != 'weight' and direction == 'forward'")
    assert [*values["name"]] == ["0", "0", "1", "2.0", "2.1", "3"]
    assert values["layer"].is_monotonic_increasing


def test_models_are_matched_by_name_and_operation() -> None:
    other = model()
    other[1] = nn.GELU()  # type: ignore[operator]
    pair = Pair.of(measured(model()), measured(other))
    alone = pair.places[pair.places["measured"] != "both"].query("direction == 'forward'")
    assert alone[["name", "op", "measured"]].to_numpy().tolist() in (
        [["1", "relu", "a"], ["1", "gelu", "b"]],
        [["1", "gelu", "b"], ["1", "relu", "a"]],
    )
    text = " ".join(changes.alone(pair))
    assert "gelu" in text
    assert "relu" in text


def test_seeds_of_models_are_pairs() -> None:
    runs = [
        pd.concat([measured(model(seed, scale)).assign(seed=seed) for seed in range(4)])
        for scale in (1.0, 2.0)
    ]
    found = ist.compare_runs(*runs, statistics=["std"]).query("name == '0.weight'")
    forward = row(found, "direction == 'forward'")
    assert forward["difference"] == pytest.approx(math.log(2))
    assert forward["low"] == pytest.approx(forward["high"])
    assert forward["seeds_a"] == 4


def test_two_steps_of_a_training() -> None:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with ist.Probe(net, backward=True) as probe:
        for _ in range(3):
            optimizer.zero_grad()
            net(BATCH).pow(2).mean().backward()
            optimizer.step()
    table = probe.table()
    pair = Pair.of(table.query("step == 0"), table.query("step == 2"))
    assert pair.compared == {"step": ("0", "2")}
    assert pair.names == ("step 0", "step 2")
    found = row(pair.differences(["std"]), "name == '3.weight' and direction == 'forward'")
    assert found["difference"] < 0
    whole = ist.compare_runs(table, probe)
    assert {*whole["step"]} == {0, 1, 2}
    assert not (whole["difference"].abs() > 0).any()


def trained(step: int, seeds: int = 3) -> pd.DataFrame:
    """The statistics of a training study."""
    tables = [study(seeds=seeds, depth=depth).assign(depth=depth, step=step) for depth in (2, 4)]
    return pd.concat(tables, ignore_index=True)


def test_a_training_study_by_its_statistics() -> None:
    later = planted(trained(9), "depth == 4 and activation == 'tanh'", sample_correlation=1.0)
    pair = Pair.of(trained(0), later)
    assert pair.compared == {"step": ("0", "9")}
    assert {*pair.configuration} == {"network", "init", "activation", "width", "depth"}
    text = words(trained(0), later)
    assert "2 of 8 combinations of init and activation changed their verdict." in text
    assert "normal with tanh, depth 4" in text
    assert "first has step 0, second has 9." in text
    assert changes.apart(pair) == []  # their names say it
    steps = pd.concat([trained(0), later], ignore_index=True)
    assert "kept" in words(*[steps.query("init == 'normal' and activation == 'tanh' and depth == 2 "
                                         "and step == 0")] * 2)  # fmt: skip
    assert "None of 16 combinations" in words(steps, steps)


def test_pages_keep_tables_that_are_read(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(5, 3), nn.ReLU())
    with ist.Probe(net) as probe:
        net(BATCH)
    probe.report(tmp_path / "model")
    found = ist.compare_runs(probe, tmp_path / "model")
    assert (found["measured"] == "both").all()
    assert not (found["difference"].abs() > 1e-12).any()
    study().to_csv(tmp_path / "mine.csv", index=False)
    assert (ist.compare_runs(tmp_path / "mine.csv", study())["measured"] == "both").all()
    (tmp_path / "broken.csv").write_text("")
    with pytest.raises(ValueError, match=r"broken.csv: it is no table"):
        ist.compare_runs(tmp_path / "broken.csv", study())


def told(pair: Pair) -> Comparison:
    return Comparison(pair, ends(pair, shown_differences(pair)))


def words(a: pd.DataFrame, b: pd.DataFrame) -> str:
    """The page's text."""
    pair = Pair.of(a, b, ("first", "second"))
    html = sides.compose(told(pair), None).html()
    html = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", "", html).split())


LAST = "layer == 4 and tensor == 'activation' and direction == 'forward'"


def test_where_nothing_differs_the_page_says_so_and_is_silent() -> None:
    text = words(study(), study())
    assert "None of 4 combinations of init and activation changed its verdict." in text
    assert "No difference: the two agree in every number that is compared here." in text
    for silent in ("differs most", "Verdicts that changed", "chance", "Only", "Figures left out"):
        assert silent not in text
    assert all(
        picture.missing(told(Pair.of(study(), study()))) for picture in of_page("comparison")
    )
    rounding = study().assign(std=lambda rows: rows["std"] * (1 + 1e-9))
    assert "agree up to rounding in every number" in words(study(), rounding)


def test_verdicts_that_changed() -> None:
    collapsed = planted(study(), "activation == 'tanh'", sample_correlation=1.0)
    text = words(study(), collapsed)
    assert "2 of 4 combinations of init and activation changed their verdict." in text
    assert "4 of these are healthy in first, and 2 in second." in text
    assert "healthycollapses2normal with tanh; orthogonal with tanh" in text
    assert "healthy → became collapses" in text
    back = words(collapsed, study())
    assert "2 of these are healthy in first, and 4 in second." in back
    one = planted(study(), "activation == 'tanh' and init == 'normal'", sample_correlation=1.0)
    assert "1 of 4 combinations of init and activation changed its verdict." in words(study(), one)
    lone = study(inits=("normal",), activations=("relu",))
    assert "that both have kept its verdict" in words(lone, lone)
    assert "that both have changed its verdict" in words(lone, lone.assign(sample_correlation=1.0))


def test_a_map_holds_those_that_changed() -> None:
    one = planted(study(), "activation == 'tanh' and init == 'normal'", sample_correlation=1.0)
    pair = Pair.of(study(widths=(50, 8)), pd.concat([one, study(widths=(8,))]))
    (found,) = sides.maps(pair, told(pair).told)
    assert found == {
        "title": "width 50",
        "activations": ["tanh"],
        "rows": [("normal", [("healthy", "collapses")])],
    }


@pytest.mark.sampled(every=3)
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"std": lambda rows: 0.5 * rows["std"]}, "a factor of 0.500 (95% interval 0.500 to"),
        ({"mean": 0.25}, "0 in first, 0.250 in second, a difference of +0.25 (95% interval"),
        ({"dead_fraction": 0.5}, "0% in first, 50% in second, a difference of +0.50 (95% interval"),
        ({"std": 0.0}, "in first, 0 in second."),
        ({"nonfinite": 10}, "in first, an overflow in second."),
        ({"mean": math.nan}, "the mean for 1 combination."),
    ],
)  # fmt: skip
def test_what_changed_most(values: Any, said: str) -> None:
    text = words(study(), planted(study(), ONE, **values))
    assert said in text
    name = next(iter(values))
    subject = {"std": "standard deviation", "dead_fraction": "share of constant units"}.get(
        name, "mean"
    )
    if "for 1" not in said and name != "nonfinite":
        assert (
            f"The {subject} of the last layer’s activations differs most for normal with relu:"
            in text
        )


def test_chance_is_the_yardstick() -> None:
    def noisy(seed: int, shift: float) -> pd.DataFrame:
        table = study(seeds=8)
        noise = np.random.default_rng(seed).normal(size=len(table))
        return table.assign(std=np.exp(0.1 * noise + shift))

    text = words(noisy(1, 0.0), noisy(2, 1.0))
    assert "separates from zero: the standard deviation of 4 of 4 combinations; if nothing" in text
    assert "chance would give less than one of 4" in text
    same = words(noisy(1, 0.0), noisy(3, 0.0))
    assert "differs for none of 4 combinations by more than chance may do; most for" in same
    assert "8 paired seeds" in same
    apart = words(noisy(1, 0.0), noisy(2, 1.0).assign(seed=lambda rows: rows["seed"] + 50))
    assert "8 and 8 seeds, not paired" in apart


def test_a_single_seed_has_no_interval() -> None:
    text = words(study(seeds=1), planted(study(seeds=1), LAST, mean=0.5))
    assert "a difference of +0.50." in text
    assert "There is one seed, so that no interval tells what chance alone does." in text
    assert "95% interval" not in text.split("How both were measured")[0]


def test_what_only_one_has_is_said() -> None:
    a = study(depth=6, inits=("normal", "lsuv"), dataset="mnist", backward=True)
    b = study(depth=4, widths=(50, 8, 9, 10), dataset="fashion", backward=True)
    text = words(a, b)
    assert "first has the data set mnist, second has fashion." in text
    assert "first has 6 layers, second has 4 layers: verdicts and differences are those" in text
    assert "Gradients begin at the last layer" in text
    assert "Only first has: init lsuv; layers 5, 6." in text
    assert "Only second has: init orthogonal; widths 8 to 10." in text
    gone = b.query("not (layer == 2 and width == 8)")
    assert "Only first has: 12 more layers and tensors." in words(b, gone)
    lacking = b.drop(columns="second_moment").assign(second_moment=1.0, extra=2.0)
    assert "Only second has: statistic extra." in words(b, lacking)


def test_both_are_judged_on_the_same_aspects() -> None:
    first = "direction == 'backward' and layer == 1"
    vanishing = planted(study(backward=True), first, second_moment=1e-9)
    assert "changed their verdict" in words(study(backward=True), vanishing)
    text = words(study(), vanishing)
    assert "Gradients were measured in second alone, so that no verdict here is about them" in text
    assert "None of 4 combinations" in text


def test_a_models_page_tells_findings_and_places() -> None:
    net = model(scale=0.1)
    before = measured(net)
    ist.lsuv_(net, BATCH)
    text = words(before, measured(net))
    assert re.search(
        r"The checks found \d (error|warning|note)s?.* in first, and .* in second", text
    )
    assert "Found in first alone" in text
    assert re.search(r"The standard deviation of \d of 6 values differs by more than a tenth", text)
    assert "The standard deviation differs most at 3 (linear):" in text
    assert "There is one measurement of each" in text
    assert "Verdicts that changed" not in text
    same = words(before, before)
    assert "No standard deviation of 6 values differs by more than a tenth." in same
    assert "No difference" in same


def test_figures_hold_both_runs() -> None:
    b = planted(study(depth=6, backward=True), "activation == 'tanh'", std=0.001)
    both = told(Pair.of(study(backward=True), b, ("one", "two")))
    frame = FIGURES["std_side_by_side"].frame(both)
    assert list(frame["panel"].cat.categories)[:2] == ["normal, tanh", "orthogonal, tanh"]
    mean = row(frame, "panel == 'normal, relu' and run == 'one' and layer == 2")
    expected = np.log(study().query(ONE.replace("layer == 4", "layer == 2"))["std"]).mean()
    assert mean["std"] == pytest.approx(math.exp(expected))
    assert frame.groupby("run", observed=True)["layer"].max().tolist() == [4, 6]
    for picture in of_page("comparison"):
        if picture.name != "places_side_by_side":
            assert len(picture.draw(both).axes) == 4
    places = told(Pair.of(measured(model()), measured(model(1))))
    frame = FIGURES["places_side_by_side"].frame(places)
    assert {*frame["run"]} == {"a", "b"}
    drawn = FIGURES["places_side_by_side"].draw(places)
    assert [axes.get_ylabel() for axes in drawn.axes][-1] == "gradient's std"


def test_the_page_and_what_lies_beside_it(tmp_path: Path) -> None:
    b = planted(study(), "activation == 'tanh'", sample_correlation=1.0)
    named = {"<b>one": study(), "two": Results.of(b)}
    page = ist.write_report(named, tmp_path / "page")
    html = page.read_text()
    assert "<title>&lt;b&gt;one against two: what differs</title>" in html
    assert "<b>one" not in html
    read = pd.read_csv(tmp_path / "page" / "differences.csv")
    assert {"statistic", "a", "b", "difference", "low", "high", "paired"} <= {*read}
    assert (tmp_path / "page" / "figures" / "std_side_by_side.svg").is_file()
    short = ist.write_report(named, tmp_path / "page", rows=False).parent / "differences.csv"
    assert len(pd.read_csv(short)) < len(read)
    with pytest.raises(ValueError, match="name a folder"):
        ist.write_report([study(), b])
    with pytest.raises(ValueError, match="two runs are compared side by side, not 3"):
        ist.write_report([b, b, b], tmp_path / "other")
    assert not (tmp_path / "other").exists()
