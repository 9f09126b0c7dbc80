"""The data and the map of a study's explorable figure."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import initstats as ist
from initstats.diagnosis import CONFIGURATION, Limits, judge, seed_interval
from initstats.diagnosis.verdicts import ASPECTS, HEALTHY, VERDICTS, WORDS
from initstats.networks.extending import is_extended
from initstats.plots import FIGURES, Results
from initstats.plots.results import order
from initstats.plots.shapes import BINS, FULL, Shaper
from initstats.report import explore
from initstats.report.answer import best_by_activation
from initstats.report.explore import Exploration, exploration
from initstats.report.explore.block import FLAGS, RULES, Data, Frame, codes, halved, middle
from initstats.report.explore.scripts import inlined
from initstats.report.printed import breakable
from initstats.report.study import compose

TEMPLATES = Path(ist.__file__).parent / "templates"
EVIL = "</script><script>window.hacked = 1</script>&\"'<!--"
KINDS = {"u1": np.uint8, "u2": np.uint16, "f4": np.float32}


@pytest.fixture(scope="module")
def folder(toy: ist.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every verdict's neighbourhood: what overflows, explodes, vanishes and is well."""
    folder = tmp_path_factory.mktemp("explored")
    grid = ist.Grid(
        inits=["torch_default", "kaiming_normal", "normal(std=1e12)", "lsuv"],
        activations=["relu", "squared_relu", "tanh", "sigmoid"],
        widths=[6, 9],
        depth=5,
        seeds=3,
        backward=True,
    )
    ist.run_sweep(grid, toy, out=folder)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path, toy: ist.Dataset) -> Results:
    results = Results.of(folder)
    keys = results.summary[["init", "activation"]].astype(str).drop_duplicates()
    grid = ist.Grid(
        inits=[*keys["init"].unique()],
        activations=[*keys["activation"].unique()],
        widths=[6, 9],
        depth=5,
        backward=True,
    )
    return replace(results, predicted=ist.predict(grid, toy))


@pytest.fixture(scope="module")
def explored(results: Results) -> Exploration:
    return exploration(results)


@pytest.fixture(scope="module")
def streamed(toy: ist.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A run in which layers add to a stream, and one network has attention."""
    folder = tmp_path_factory.mktemp("streamed")
    grid = ist.Grid(
        networks=["mlp", "resmlp(norm=layer)", "transformer(patch=4,heads=2)"],
        inits=["kaiming_normal", "normal(std=8)"],
        activations=["relu", "tanh"],
        widths=[6],
        depth=11,
        seeds=2,
        backward=True,
    )
    ist.run_sweep(grid, toy, out=folder)
    ist.predict_run(folder, toy)
    return Results.of(folder)


@pytest.fixture(scope="module")
def planted(streamed: Results) -> Results:
    """The same, but for a stack whose branches add nothing, and one whose first adds most."""
    table = streamed.table.copy()
    of = (table["network"] == "resmlp(norm=layer)") & (table["init"] == "kaiming_normal")
    idle, first = (of & (table["activation"] == name) for name in ("relu", "tanh"))
    table.loc[idle, "branch_share"] *= 1e-3
    table.loc[first & (table["layer"] > 2), "branch_share"] *= 0.01
    gentle = table["init"].eq("kaiming_normal")  # nothing graver by any of the limits
    table.loc[gentle & table["direction"].eq("backward"), "second_moment"] = 1.0
    table.loc[gentle, "sample_correlation"] = 0.5
    return Results.of(table, predicted=streamed.predicted)


def unpacked(explored: Exploration, block: int) -> dict[str, NDArray[Any]]:
    """The planes of a block as a script reads them; numbers of two bytes as those of four."""
    text = explored.data[block]
    if text is None:
        (text,) = re.findall(r'= "(.*)";', explored.beside[f"explore-{block + 1}.js"])
    raw, start, planes = gzip.decompress(base64.b64decode(text)), 0, {}
    for plane in json.loads(explored.manifest)["planes"]:
        kind, count = np.dtype(KINDS[plane["kind"]]), int(np.prod(plane["shape"]))
        size = count * kind.itemsize
        transposed = np.frombuffer(raw[start : start + size], np.uint8)
        values = transposed.reshape(kind.itemsize, count).T.copy().view(kind)
        if plane["kind"] == "u2":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        planes[plane["name"]] = values.reshape(plane["shape"])
        start += size
    assert start == len(raw)
    return planes


def rows_of_block(explored: Exploration) -> Iterator[tuple[int, str, str]]:
    """The number of each configuration, its init and its activation."""
    manifest = json.loads(explored.manifest)
    across = len(manifest["activations"])
    for row, init in enumerate(manifest["inits"]):
        for column, activation in enumerate(manifest["activations"]):
            yield row * across + column, init, activation


@pytest.mark.sampled(every=6)
@pytest.mark.parametrize(
    "limits",
    [Limits(), Limits(2, 0.9, 2), Limits(100, 0.999, 1000), Limits(30, 1, 3)],
    ids=str,
)
@pytest.mark.parametrize(
    ("run", "some"),
    [("results", {"overflows"}), ("planted", {"idle", "front-loaded"})],
)
def test_a_block_holds_what_verdicts_hang_on(
    request: pytest.FixtureRequest, run: str, some: set[str], limits: Limits
) -> None:
    results: Results = request.getfixturevalue(run)
    explored = exploration(results)
    manifest = json.loads(explored.manifest)
    judged: Any = judge(results.table, results.predicted, limits)["verdict"].astype(str)
    met = set()
    for number, block in enumerate(results.blocks):
        words = verdicts_of(manifest["verdicts"], unpacked(explored, number), vars(limits))
        for cell, init, activation in rows_of_block(explored):
            expected = judged.loc[block.network, init, activation, block.width].unstack("seed")
            np.testing.assert_array_equal(words[cell], expected.to_numpy())
        met |= {*words.flat}
    assert len(met) > 5
    assert met >= some


def verdicts_of(
    rules: list[dict[str, Any]], planes: dict[str, NDArray[Any]], limits: dict[str, float]
) -> NDArray[Any]:
    """The gravest verdict that holds at each place, as a script finds it."""
    holds: list[NDArray[np.bool_]] = []
    for rule in rules:
        if "bit" in rule:
            holds.append((planes["flags"] & rule["bit"]) > 0)
        elif "number" in rule:
            value, limit = planes[rule["number"]], limits[rule["limit"]]
            compared = {
                "above": value > np.float32(limit),
                "below": value < np.float32(1 / limit),
                "at least": value >= np.float32(limit),
            }
            holds.append(compared[rule["is"]])
        else:
            holds.append(np.ones_like(planes["flags"], bool))
    return np.select(holds, [rule["name"] for rule in rules], "none")


def test_each_verdict_has_one_rule() -> None:
    moved = [verdict.name for verdict in VERDICTS if "{" in verdict.sense]
    assert [*RULES] == moved
    assert {*RULES, *FLAGS, HEALTHY} == {*WORDS}
    assert len(FLAGS) < 8  # bits of a byte, and one for what was measured
    assert {aspect for verdict in VERDICTS if (aspect := verdict.aspect)} == {*ASPECTS}


@pytest.mark.parametrize("name", ["std", "mean", "sample_correlation", "rms"])
@pytest.mark.parametrize("view", [("activation", "forward"), ("preactivation", "backward")])
def test_curves_are_means_over_seeds(
    results: Results, explored: Exploration, name: str, view: tuple[str, str]
) -> None:
    manifest = json.loads(explored.manifest)
    statistic = [each["name"] for each in manifest["statistics"]].index(name)
    viewed = [(each["tensor"], each["direction"]) for each in manifest["views"]].index(view)
    rows = results.measured(*view)
    values = np.sqrt(rows["second_moment"]) if name == "rms" else rows[name]
    logarithmic = name in ("std", "rms")
    with np.errstate(divide="ignore"):
        heights = np.log10(values) if logarithmic else values
    heights = heights.where(rows["nonfinite"] == 0, np.inf if logarithmic else np.nan)
    expected: Any = seed_interval(rows.assign(height=heights), "height", [*CONFIGURATION, "layer"])
    drawn = rows.assign(height=heights).set_index([*CONFIGURATION, "layer", "seed"])["height"]
    for number, block in enumerate(results.blocks):
        planes = unpacked(explored, number)
        for cell, init, activation in rows_of_block(explored):
            own = expected.loc[block.network, init, activation, block.width]
            mean, half = (planes[plane][viewed, statistic, cell] for plane in ("mean", "half"))
            np.testing.assert_allclose(mean, own["mean"], rtol=1e-6, atol=1e-30)
            np.testing.assert_allclose(half, own["high"] - own["mean"], rtol=1e-5, atol=1e-9)
            seeds = planes["seeds"][viewed, statistic, cell]
            finite = np.where(np.isfinite(mean), mean, 0)[:, None]
            each = drawn.loc[block.network, init, activation, block.width].unstack("seed")
            np.testing.assert_allclose(seeds, each - finite, rtol=0.04, atol=1e-5)


def test_curves_of_streams_are_where_layers_have_them(streamed: Results) -> None:
    explored = exploration(streamed)
    manifest = json.loads(explored.manifest)
    names = [each["name"] for each in manifest["statistics"]]
    views = {
        f"{view['tensor']} {view['direction']}": at for at, view in enumerate(manifest["views"])
    }
    share, entropy = names.index("branch_share"), names.index("attention_entropy")
    networks = {each["network"]: each["known"] for each in manifest["networks"]}
    mlp, residual, transformer = networks.values()
    assert entropy in transformer[views["attention forward"]]
    for known in (residual, transformer):
        assert share in known[views["stream forward"]]
        assert share not in known[views["activation forward"]]
        assert entropy not in known[views["stream forward"]]
    for view in ("stream forward", "attention forward", "logits backward"):
        assert mlp[views[view]] == []
    assert residual[views["attention forward"]] == []
    for number, block in enumerate(streamed.blocks):
        planes = unpacked(explored, number)
        rows = block.rows(streamed.table)
        known = manifest["networks"][number]["known"]
        drawn = ~np.isnan(planes["mean"]).all(axis=(2, 3))
        assert known == [np.flatnonzero(row).tolist() for row in drawn]
        for view, at in views.items():
            tensor, direction = view.split()
            own = rows[(rows["tensor"] == tensor) & (rows["direction"] == direction)]
            there = np.flatnonzero(planes["layers"][at]) + 1
            assert there.tolist() == sorted(own["layer"].unique())
        stream = block.rows(streamed.measured("stream"))
        stream = stream[(stream["init"] == "kaiming_normal") & (stream["activation"] == "relu")]
        expected = stream.groupby("layer")["branch_share"].mean()
        drawn = planes["mean"][views["stream forward"], names.index("branch_share"), 0]
        np.testing.assert_allclose(drawn[: len(expected)], expected, rtol=1e-6)
        # a histogram stands at its layer, also behind layers without activation
        held = planes["heights"][0].any(axis=1)
        activations = block.rows(streamed.measured("activation"))["layer"].unique()
        assert (np.flatnonzero(held) + 1).tolist() == sorted(activations)


def test_figures_of_streams_have_the_layers_and_what_is_judged(streamed: Results) -> None:
    def frame(name: str) -> pd.DataFrame:
        return FIGURES[name].frame(streamed)

    judged = frame("gradient_by_depth").groupby("network", observed=True)["tensor"].unique()
    assert judged["mlp"] == ["preactivation"]
    assert judged["transformer(heads=2,patch=4)"] == ["stream"]
    spread = frame("std_by_depth")
    spread = spread[spread["network"] == "transformer(heads=2,patch=4)"]
    assert {*spread["layer"]} == {3, 5, 7, 9, 11}
    bands = frame("distribution_by_depth")
    bands = bands[bands["network"] == "transformer(heads=2,patch=4)"]
    full = bands.groupby("layer")["count"].sum() > 0
    assert full.index[full].tolist() == [3, 5, 7, 9, 11]
    figure = FIGURES["std_by_depth"].draw_frame(frame("std_by_depth"))
    assert [part.get_suptitle() for part in figure.subfigs] == [
        f"{network}, width 6" for network in order(streamed.summary["network"])
    ]


def test_a_page_says_that_streams_are_judged(streamed: Results, results: Results) -> None:
    page = compose(streamed).html()
    assert "the stream is judged in place of pre-activations" in page
    assert "rms of the pre-activations, or of the stream, on average" in page
    assert results.signal == "pre-activations"


def test_a_page_says_what_it_counts_and_ranks(streamed: Results, results: Results) -> None:
    text, plain = compose(streamed).html(), compose(results).html()
    several = f"of {len(streamed.summary)} combinations of network, init and activation"
    assert several in text
    assert f"of {len(results.summary)} combinations of width, init and activation" in plain
    assert "or of two tokens of a sequence where that is larger" in text
    assert "whose gradient’s growth is nearest to 1" in text
    assert "tokens of a sequence where" not in plain
    assert "whose gradient’s growth" not in plain
    assert streamed.predicted is not None
    notes = streamed.predicted["note"]
    left_out = notes[notes.str.startswith("theory follows the network")]
    assert {*left_out} == {
        f"theory follows the network, but not the gradients of {tensor}"
        for tensor in ("attention", "logits")
    }


def test_the_steadiest_init_of_a_norm_is_told_by_its_gradient(streamed: Results) -> None:
    healthy = pd.CategoricalDtype(streamed.summary["verdict"].cat.categories)
    summary = streamed.summary.copy()
    summary["verdict"] = pd.Categorical([HEALTHY] * len(summary), dtype=healthy)
    wide = summary["init"].astype(str) == "normal(std=8)"
    summary["growth"] = np.where(wide, 1.01, 2.0)
    summary["gradient_growth"] = np.where(wide, 3.0, 1.02)
    best: Any = best_by_activation(replace(streamed, summary=summary)).set_index("network")
    assert {kept[0] for kept in best.loc["mlp", "kept"]} == {"normal(std=8)"}
    assert {kept[0] for kept in best.loc["resmlp(norm=layer)", "kept"]} == {"kaiming_normal"}


def test_growth_and_theory_are_there(results: Results, explored: Exploration) -> None:
    planes, block = unpacked(explored, 1), results.blocks[1]
    summary = block.rows(results.summary).set_index(["init", "activation"])
    for cell, init, activation in rows_of_block(explored):
        growth: Any = summary.loc[(init, activation), "growth"]
        np.testing.assert_allclose(np.exp(planes["growth"][cell, -1]), growth, rtol=1e-5)
    assert results.predicted is not None
    rows = block.rows(results.predicted)
    rows = rows[(rows["tensor"] == "activation") & (rows["direction"] == "forward")]
    rows = rows[(rows["init"] == "kaiming_normal") & (rows["activation"] == "relu")]
    told = 10 ** planes["theory"][0, 0, [1 * 4 + 0]][0]
    np.testing.assert_allclose(told, rows["std"].where(rows["note"] == ""), rtol=1e-5)


def test_the_map_reads_as_the_summary_does(results: Results, explored: Exploration) -> None:
    assert [*explored.maps] == ["width 6", "width 9"]
    notes = set()
    for block, rows in zip(results.blocks, explored.maps.values(), strict=True):
        summary = block.rows(results.summary).set_index(["init", "activation"])
        for row in rows:
            own = summary.loc[row.init].loc[[*explored.activations]]
            assert [cell.word for cell in row.cells] == own["verdict"].to_list()
            assert row.healthy == (own["verdict"] == HEALTHY).sum()
            for cell, (_, each) in zip(row.cells, own.iterrows(), strict=True):
                votes = f"{round(each['agreement'] * 3)} of 3"
                split = "tie" if each["tied"] else votes
                assert cell.note == ("" if each["agreement"] == 1 else split)
                notes.add(cell.note)
    assert len(notes) > 1


def test_two_builds_are_equal(results: Results) -> None:
    one, other = (compose(replace(results)).html() for _ in range(2))
    assert one == other
    assert len(one) < 3e6


def test_further_networks_lie_beside_a_page_that_is_large(
    results: Results, explored: Exploration, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = explored
    monkeypatch.setattr(explore, "MOST", len(whole.data[0] or ""))
    page = compose(results)
    part = page.values["explore"]
    assert part.data[0] == whole.data[0]
    assert part.data[1] is None
    assert [*part.beside] == ["explore-2.js"]
    assert page.tables["explore-2.js"] == part.beside["explore-2.js"]
    assert json.loads(part.manifest)["files"] == [None, "explore-2.js"]
    np.testing.assert_array_equal(unpacked(part, 1)["rms"], unpacked(whole, 1)["rms"])


def test_names_stay_names(results: Results) -> None:
    table = results.table.copy()
    for kind in ("init", "activation"):
        names = table[kind].cat.categories
        table[kind] = table[kind].cat.rename_categories([EVIL, *names[1:]])
    page = compose(Results.of(table))
    explored = page.values["explore"]
    assert not {*"<>&"} & {*explored.manifest}
    assert json.loads(explored.manifest)["inits"][0] == EVIL
    assert EVIL not in page.html()
    assert page.html().count("<script") == compose(results).html().count("<script")


def test_a_spelling_breaks_where_it_may() -> None:
    assert str(breakable("a_b(c=1,d=2)")) == "a_<wbr>b<wbr>(c=<wbr>1,<wbr>d=<wbr>2)"
    assert str(breakable("<b>_")) == "&lt;b&gt;_"


@pytest.mark.parametrize(
    "lacking",
    ["gradients", "activations", "quantiles", "seeds", "layers", "pairs", "statistics"],
)
def test_less_can_be_explored(results: Results, lacking: str) -> None:
    table = results.table
    if lacking == "gradients":
        table = table[table["direction"] == "forward"]
    elif lacking == "activations":
        table = table[table["tensor"] == "preactivation"]
    elif lacking == "quantiles":
        table = table.drop(columns=[name for name in table if str(name).startswith("q")])
    elif lacking == "seeds":
        table = table[table["seed"] == 1]
    elif lacking == "layers":
        table = table[table["layer"] == 1]
    elif lacking == "pairs":
        table = table[(table["init"] == "lsuv") & (table["activation"] == "tanh")]
    else:
        table = table.drop(columns=["kurtosis", "zero_fraction"])
    for kind in ("init", "activation"):
        table = table.assign(**{kind: table[kind].cat.remove_unused_categories()})
    less = Results.of(table)
    page = compose(less)
    planes = unpacked(page.values["explore"], 0)
    words = [cell.word for row in page.values["explore"].maps["width 6"] for cell in row.cells]
    assert words == less.blocks[0].rows(less.summary)["verdict"].to_list()
    assert ("quantiles" in planes) == (lacking != "quantiles")
    assert "heights" not in planes
    page.html()


def test_a_run_in_progress_counts_the_seeds_that_are_there(results: Results) -> None:
    table = results.table
    of = (table["init"] == "kaiming_normal") & (table["activation"] == "relu")
    missing = (of & (table["seed"] == 2)) | (
        (table["init"] == "lsuv") & (table["activation"] == "tanh")
    )
    explored = exploration(Results.of(table[~missing]))
    planes = unpacked(explored, 0)
    cell = 1 * 4
    two = table[of & ~missing & (table["width"] == 6)]
    two = two[(two["tensor"] == "activation") & (two["direction"] == "forward")]
    expected = np.log10(two["std"]).groupby(two["layer"]).mean()
    np.testing.assert_allclose(planes["mean"][0, 0, cell], expected, rtol=1e-6)
    assert (planes["flags"][cell] > 0).sum() == 2 * 5
    rows = {row.init: row for row in explored.maps["width 6"]}
    assert rows["kaiming_normal"].cells[0].note in ("", "tie")
    assert rows["lsuv"].cells[2] == ("", "")


def test_of_hundreds_of_entries_some_are_explored(toy: ist.Dataset) -> None:
    one = ist.run_sweep(
        ist.Grid(inits=["normal(std=0.5)"], activations=["relu"], widths=[4], depth=2, seeds=2), toy
    )
    many = [one.assign(init=f"normal(std={n})", init_std=float(n)) for n in range(300)]
    table = pd.concat(many, ignore_index=True)
    explored = exploration(Results.of(table))
    (shown,) = explored.maps.values()
    assert [row.init for row in shown][:: len(shown) - 1] == ["normal(std=0)", "normal(std=299)"]
    assert len(shown) <= 40


def test_a_shape_is_a_histogram(folder: Path) -> None:
    low, high = map(np.array, ist.store.load_run(folder).bins)
    draws = np.random.default_rng(0).normal(2.0, 1.0, 20_000).astype(np.float32)
    counts = np.zeros((3, len(low)), np.int64)
    finite = np.flatnonzero(np.isfinite(low) & np.isfinite(high) & (low < high))
    order = finite[np.argsort(low[finite])]
    places = order[np.searchsorted(low[order], draws, "right") - 1]
    np.add.at(counts[0], places, 1)
    counts[1, (low == 0) & (high == 0)] = 7  # nothing but zeros
    counts[2] = counts[0]
    counts[2, (low == 0) & (high == 0)] = 10**6  # which are left out
    shape = Shaper(low, high)(counts)
    ends = shape.span[0]
    np.testing.assert_allclose(ends, np.quantile(draws, [0.005, 0.995]), atol=0.5)
    expected = np.histogram(draws, BINS, tuple(ends))[0]
    measured = shape.heights[0] / shape.heights[0].sum() * expected.sum()
    # the store's bins are wider than these: a moving average tells
    smooth, told = (np.convolve(each, np.ones(9) / 9, "valid") for each in (measured, expected))
    np.testing.assert_allclose(smooth, told, rtol=0.25, atol=30)
    assert shape.heights.max(axis=1).tolist() == [FULL, 0, FULL]
    assert np.isnan(shape.span[1]).all()
    np.testing.assert_array_equal(shape.heights[0], shape.heights[2])


def test_the_median_leaves_out_what_is_missing() -> None:
    nan, inf = np.nan, np.inf
    values = np.array([[1.0, nan, 3, 10], [nan, nan, nan, nan], [-inf, 0, 1, nan], [4, 2, 8, 6]])
    with np.errstate(all="raise"):
        found = middle(values)
    np.testing.assert_array_equal(found, [3, nan, 0, 5])


def test_half_a_number_has_three_digits_or_two() -> None:
    values = np.array([1.2345, -3e-30, 0, 1.999, np.inf, -np.inf, np.nan], np.float32)
    for digits, error in ((3, 0.004), (2, 0.032)):
        back = (halved(values, digits).astype(np.uint32) << 16).view(np.float32)
        np.testing.assert_allclose(back, values, rtol=error)


def test_codes_are_positions() -> None:
    column = pd.Series(pd.Categorical(["b", "a", "b"], categories=["a", "b", "c"]))
    assert codes(column, ["b", "a"]).tolist() == [0, 1, 0]
    assert codes(pd.Series([7, 5, 7]), [5, 7]).tolist() == [1, 0, 1]


def test_the_words_of_a_block_are_those_of_judge(results: Results) -> None:
    block = results.blocks[0]
    data = Data(results.within([block]), block, Frame.of(results))
    words = data.words
    assert words.shape == (16, 5, 3)
    assert (words >= 0).all()


# the script


MODULES = re.findall(
    r'include "explore/(\w+\.js)"', (TEMPLATES / "explore/scripts.html").read_text()
)


def test_modules_stand_in_the_order_of_their_imports() -> None:
    assert {*MODULES} == {path.name for path in (TEMPLATES / "explore").glob("*.js")}
    before: set[str] = set()
    for name in MODULES:
        text = (TEMPLATES / "explore" / name).read_text(encoding="utf-8")
        assert {*re.findall(r'from "\./(\w+\.js)"', text)} <= before, name
        before.add(name)


def test_modules_are_one_without_imports_and_with_distinct_names(results: Results) -> None:
    (script,) = re.findall(
        r'<script type="module">(.*?)</script>', compose(results).html(), re.DOTALL
    )
    assert not re.search(r"^\s*(import|export)\b", script, re.MULTILINE)
    names = re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", script, re.MULTILINE)
    assert len(names) == len({*names}) > 40


def test_what_is_exported_is_known_to_all() -> None:
    modules = (
        'import {\n  one,\n} from "./one.js";\n\nexport class A {}\nexport const b = "export";'
    )
    assert inlined(modules) == '\nclass A {}\nconst b = "export";'


def test_verdicts_at_layers_are_offered_where_they_are_those_of_shallower_networks(
    toy: ist.Dataset, tmp_path: Path
) -> None:
    grid = ist.Grid(
        networks=["resmlp", "resmlp(scale=inverse_depth)"],
        inits=["kaiming_normal"],
        activations=["relu"],
        widths=6,
        depth=6,
        seeds=1,
    )
    ist.run_sweep(grid, toy, out=tmp_path)
    explored = exploration(Results.of(tmp_path))
    assert explored.shallow
    (reason,) = explored.reasons
    assert "depend on how many there are" in reason
    assert "resmlp(scale=inverse_depth)" in reason
    networks = json.loads(str(explored.manifest))["networks"]
    assert [each["reason"] for each in networks] == ["", reason]


@pytest.mark.parametrize("network", ["resmlp(norm=layer)", "resmlp(scale=inverse_depth)"])
def test_a_shallower_network_is_known_by_its_numbers(toy: ist.Dataset, network: str) -> None:
    def first_layers(depth: int) -> Any:
        grid = ist.Grid(
            networks=[network],
            inits=["kaiming_normal"],
            activations=["relu"],
            widths=6,
            depth=depth,
            seeds=2,
        )
        table = ist.run_sweep(grid, toy)
        return table.loc[table["layer"] <= 4, ["second_moment", "sample_correlation"]].to_numpy()

    alike = np.allclose(first_layers(4), first_layers(9), rtol=1e-6, equal_nan=True)
    assert alike == is_extended(ist.networks.get(network), 6, 9)


def test_of_a_bare_table_of_streams_nothing_is_claimed(streamed: Results) -> None:
    explored = exploration(replace(streamed, extended={}))
    networks = json.loads(str(explored.manifest))["networks"]
    streams = {*streamed.measured("stream")["network"]}
    assert streams
    for each in networks:
        assert ("not known" in each["reason"]) == (each["network"] in streams)


def test_the_pair_that_is_drawn_at_first_is_one_of_the_first_network(
    toy: ist.Dataset, tmp_path: Path
) -> None:
    """A recipe has no other init than its own."""
    settings: dict[str, Any] = {"widths": [6], "depth": 5, "seeds": 1}
    grid = ist.Grid(recipes=["fixup", "nfnet"], activations=["relu", "tanh"], **settings)
    ist.run_sweep(grid, toy, out=tmp_path / "run")
    shown = exploration(Results.of(tmp_path / "run")).manifest
    assert f'"first":[["{ist.recipe("fixup").init}","relu"]]' in shown.replace(" ", "")
