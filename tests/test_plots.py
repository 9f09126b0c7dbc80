from __future__ import annotations

import io
import itertools
import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy import stats

import initstats as ist
from initstats.moments.table import bin_edges
from initstats.plots import (
    FIGURES,
    Results,
    against,
    band_of,
    banded,
    figure,
    of_page,
    register_figure,
)
from initstats.plots.bands import BANDS, EDGES, OVERFLOW, ZERO, counts_of, tidy
from initstats.plots.catalog import GRADIENTS, PAGES
from initstats.plots.curves import LINEAR, LOG, NUMBER, SHARE, layer_ticks
from initstats.plots.distribution import picture
from initstats.plots.grid import rows_of
from initstats.plots.parameter import by_parameter
from initstats.plots.style import INK, PALETTE, STYLE, strokes, wrapped

INITS = ["normal(std=1e-05)", "normal(std=1000000)", "kaiming_normal", "torch_default"]
STUDY = [picture.name for picture in of_page("study")]
ACTIVATIONS = ["relu", "shifted_relu", "squared_relu", "tanh"]


@pytest.fixture(scope="module")
def table(toy: ist.Dataset) -> pd.DataFrame:
    """Signals that live, vanish exactly, explode and overflow; forward and backward."""
    grid = ist.Grid(
        inits=INITS, activations=ACTIVATIONS, widths=[6], depth=5, seeds=3, backward=True
    )
    return ist.run_sweep(grid, toy)


@pytest.fixture(scope="module")
def results(table: pd.DataFrame) -> Results:
    return Results.of(table, made_up_bands(table))


def made_up_bands(table: pd.DataFrame) -> dict[tuple[str, str, str, int], np.ndarray]:
    """Counts for every configuration but the first, of which there are none yet."""
    keys = table[["network", "init", "activation", "width"]].drop_duplicates().to_numpy()[1:]
    depth = int(table["layer"].max())
    counts = np.random.default_rng(5).integers(0, 9, (depth, BANDS + 1))
    return {(str(n), str(i), str(a), int(w)): counts for n, i, a, w in keys}


def variants(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """All configurations, and then what may be odd about a table of fewer."""
    yield "whole", table
    table = table[table["init"].isin(INITS[::2]) & table["activation"].isin(ACTIVATIONS[:2])]
    yield "one seed", table[table["seed"] == 1]
    yield "one layer", table[table["layer"] == 1]
    yield "unfinished", table[(table["seed"] == 0) | (table["init"] == "kaiming_normal")]
    one = table[(table["init"] == "kaiming_normal") & (table["activation"] == "relu")]
    yield "one configuration", one
    wider = [table.assign(width=width) for width in (6, 50)]
    yield "two widths", pd.concat([*wider, one.assign(width=500)])
    yield "unordered", table.sample(frac=1, random_state=0).astype({"init": str, "activation": str})


VARIANTS = [
    "whole",
    "one seed",
    "one layer",
    "unfinished",
    "one configuration",
    "two widths",
    "unordered",
]


def axes_of(drawn: Figure) -> dict[str, Axes]:
    """Panels by their title."""
    return {axes.get_title(loc="left"): axes for axes in drawn.axes}


def texts(axes: Axes, columns: int) -> list[list[str]]:
    """The labels of a map, row by row."""
    labels = [text.get_text() for text in axes.texts]
    return [labels[start : start + columns] for start in range(0, len(labels), columns)]


@pytest.fixture(scope="module")
def parts(table: pd.DataFrame) -> dict[str, Results]:
    return {kind: Results.of(part, made_up_bands(part)) for kind, part in variants(table)}


@pytest.mark.sampled(every=6)
@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("name", STUDY)
def test_every_figure_draws_every_table(name: str, kind: str, parts: dict[str, Results]) -> None:
    results = parts[kind]
    if reason := FIGURES[name].missing(results):
        assert (kind, name) in missing_by_nature(), reason
        with pytest.raises(ValueError, match=f"cannot draw {name}: "):
            FIGURES[name].draw(results)
        return
    drawn = FIGURES[name].draw(results)
    with mpl.rc_context(STYLE):
        drawn.draw_without_rendering()
    width = drawn.get_figwidth()
    assert 0 < width <= 9.01


def missing_by_nature() -> set[tuple[str, str]]:
    deep = [name for name, entry in FIGURES.items() if "two layers" in str(entry.needs)]
    lacking = {("one layer", name) for name in deep}
    lacking |= {("one configuration", n) for n in ("shifted_relu_story", "distribution_by_depth")}
    return lacking | {(kind, "statistic_against_parameter") for kind in VARIANTS}


def test_figures_have_titles_and_captions() -> None:
    for entry in FIGURES.values():
        assert entry.title
        assert len(entry.caption) > 80


@pytest.mark.parametrize("name", STUDY)
def test_captions_are_plain_words(name: str) -> None:
    for words in (
        "a layer.",
        "cotangent",
        "same push",
        "deserve",
        "ribbon does not tell",
        "trusted",
    ):
        assert words not in FIGURES[name].caption


def test_every_page_has_its_figures_in_one_catalogue() -> None:
    pages = {page: [picture.name for picture in of_page(page)] for page in PAGES}
    assert sum(map(len, pages.values())) == len(FIGURES)
    assert pages["theory"] == ["phases", "maps"]
    assert pages["model"][0] == "depth_profile"
    assert pages["bench"] == ["timings"]
    assert "verdicts" in pages["study"]
    with pytest.raises(ValueError, match="unknown page 'studies': did you mean 'study'"):
        register_figure(title="Mine", data=lambda given: given, page="studies")


def test_a_frame_is_all_that_is_drawn(results: Results, tmp_path: Path) -> None:
    for entry in of_page("study"):
        if not entry.missing(results):
            frame = entry.frame(results)
            assert {"network", "init", "activation", "width"} <= set(frame.columns)
            frame.to_csv(tmp_path / "frame.csv", index=False)
            read = pd.read_csv(tmp_path / "frame.csv")
            read = read.astype({name: frame[name].dtype for name in ("init", "activation")})
            drawn, again = (entry.draw_frame(each) for each in (frame, read))
            assert [len(axes.texts) for axes in drawn.axes] == [len(a.texts) for a in again.axes]
            assert [len(axes.lines) for axes in drawn.axes] == [len(a.lines) for a in again.axes]


# figures for papers


def renamed(table: pd.DataFrame, inits: list[str], activations: list[str]) -> pd.DataFrame:
    """A table of more configurations than were run; `init_size` is the number of each ramp."""
    measured = table.astype({"init": str, "activation": str})
    parts = [
        measured[
            (measured["init"] == ("kaiming_normal", "normal(std=1e-05)")[n % 2])
            & (measured["activation"] == ACTIVATIONS[m % 4])
        ].assign(init=init, activation=activation)
        for n, init in enumerate(inits)
        for m, activation in enumerate(activations)
    ]
    kinds = {"init": pd.CategoricalDtype(inits), "activation": pd.CategoricalDtype(activations)}
    whole = pd.concat(parts, ignore_index=True).astype(kinds)
    sizes = {name: float(name[10:-1]) for name in inits if name.startswith("ramp")}
    return whole.assign(init_size=whole["init"].astype(str).map(sizes))


@pytest.fixture(scope="module")
def large(table: pd.DataFrame) -> Results:
    """As many inits and activations as the default study has, with long names among them."""
    inits = ["kaiming_normal(mode=fan_out)", *(f"ramp(size={n})" for n in (1, 2, 4, 8, 16, 32))]
    inits += ["kaiming_normal", "torch_default", "orthogonal", "trunc_normal"]
    activations = ["relu", "shifted_relu", "general_relu(leak=0.2,sub=0.3)"]
    activations += [f"function_{n}" for n in range(11)]
    whole = renamed(table, inits, activations)
    predicted = whole[whole["seed"] == 0].assign(note="", second_moment_spread=1.0)
    return Results.of(whole, made_up_bands(whole), predicted)


@pytest.mark.sampled(every=6)
@pytest.mark.parametrize("width", [3.3, 9])
@pytest.mark.parametrize("name", STUDY)
def test_no_text_is_cut_or_overlaps(
    name: str, width: float, large: Results, faults: Callable[[Figure], list[str]]
) -> None:
    drawn = figure(name, large, width)
    assert drawn.get_figwidth() == pytest.approx(width)
    assert faults(drawn) == []


@pytest.fixture(scope="module")
def both(table: pd.DataFrame) -> Results:
    """Two widths, which have a block each."""
    wider = pd.concat([table.assign(width=width) for width in (6, 50)])
    return Results.of(wider, made_up_bands(wider))


@pytest.mark.sampled(every=6)
@pytest.mark.parametrize("width", [3.3, 9])
@pytest.mark.parametrize("name", STUDY)
def test_blocks_do_not_overlap(
    name: str, width: float, both: Results, faults: Callable[[Figure], list[str]]
) -> None:
    if not FIGURES[name].missing(both):
        assert faults(figure(name, both, width)) == []


@pytest.mark.parametrize("count", range(1, 41))
@pytest.mark.parametrize("width", [2.0, 3.3, 5.0, 9.0])
def test_rows_of_panels_are_full(count: int, width: float) -> None:
    rows = rows_of(count, width)
    assert sum(rows) == count
    assert max(rows) - min(rows) <= 1
    assert max(rows) == 1 or (width - 0.45) / max(rows) >= 1.15


def test_a_pdf_holds_the_fonts_of_its_text(results: Results, tmp_path: Path) -> None:
    figure("std_by_depth", results).savefig(tmp_path / "figure.pdf")  # in no style but its own
    pdf = (tmp_path / "figure.pdf").read_bytes()
    assert b"/FontFile2" in pdf  # TrueType
    assert b"/Type3" not in pdf


def results_of(table: pd.DataFrame) -> list[str]:
    """The verdicts on a table's configurations, which all seeds agree on."""
    return ist.summarize(table)["verdict"].astype(str).tolist()


def test_a_figure_takes_a_table_a_folder_or_results(
    toy: ist.Dataset, tmp_path: Path, faults: Callable[[Figure], list[str]]
) -> None:
    grid = ist.Grid(inits=INITS[2:], activations=["relu"], widths=[6], depth=3, seeds=2)
    table = ist.run_sweep(grid, toy, out=tmp_path / "run")
    for given in (table, str(tmp_path / "run"), Results.of(table)):
        labels = [text.get_text() for text in figure("verdicts", given).axes[0].texts]
        assert labels == results_of(table)
    assert faults(figure("distribution_by_depth", tmp_path / "run")) == []
    with pytest.raises(ValueError, match="a bare table has none"):
        figure("distribution_by_depth", table)
    with pytest.raises(ValueError, match="unknown figure 'verdict': did you mean 'verdicts'"):
        figure("verdict", table)


# parameters


@pytest.fixture(scope="module")
def swept(table: pd.DataFrame) -> Results:
    """Thirteen members of one family beside another init."""
    sizes = [round(0.1 * 2**n, 3) for n in range(13)]
    return Results.of(
        renamed(table, ["orthogonal", *(f"ramp(size={n})" for n in sizes)], ["relu", "tanh"])
    )


def test_of_a_long_sweep_figures_of_all_entries_show_some(swept: Results) -> None:
    (sweep,) = swept.sweeps
    assert (sweep.kind, sweep.family, sweep.column) == ("init", "ramp", "init_size")
    assert len(sweep.entries) == 13
    shown = ["orthogonal", "ramp(size=0.1)", "ramp(size=0.4)", "ramp(size=3.2)"]
    assert swept.few.inits == [*shown, "ramp(size=12.8)", "ramp(size=102.4)", "ramp(size=409.6)"]
    for name in ("verdicts", "std_by_depth"):
        assert set(FIGURES[name].frame(swept)["init"]) == set(swept.few.inits)
    assert swept.left_out == "Figures of all entries show 6 of 13 ramp, evenly taken."


def test_nothing_is_left_out_of_a_short_sweep(large: Results, results: Results) -> None:
    assert large.few.inits == large.inits
    assert large.left_out == results.left_out == ""
    assert len(large.sweeps[0].entries) == 6
    assert [len(sweep.entries) for sweep in results.sweeps] == [2]


def test_a_statistic_against_a_parameter(swept: Results) -> None:
    frame = FIGURES["statistic_against_parameter"].frame(swept)
    assert set(frame["layer"]) == {1, 3, 5}
    assert frame["init"].nunique() == 13
    table = swept.table
    for size, layer, activation in ((0.1, 1, "relu"), (0.2, 5, "tanh"), (409.6, 3, "relu")):
        of_frame = frame[
            (frame["init_size"] == size)
            & (frame["layer"] == layer)
            & (frame["activation"] == activation)
        ]
        stds = table.loc[
            (table["init_size"] == size)
            & (table["layer"] == layer)
            & (table["activation"] == activation)
            & (table["tensor"] == "activation")
            & (table["direction"] == "forward"),
            "std",
        ]
        assert len(stds) == 3
        assert of_frame["std"].to_numpy() == pytest.approx([stats.gmean(stds)])
    axes = axes_of(FIGURES["statistic_against_parameter"].draw_frame(frame))
    assert list(axes) == ["layer 1", "layer 3", "layer 5"]
    line = next(line for line in axes["layer 1"].lines if np.size(line.get_xdata()) == 13)
    places = np.asarray(line.get_xdata())
    np.testing.assert_allclose(np.diff(places), np.log10(2), atol=0.01)  # equal factors
    assert axes["layer 1"].get_xticklabels()[0].get_text() == "0.1"


def test_any_statistic_at_any_layers_against_a_parameter(swept: Results) -> None:
    drawn = against(swept, "sample_correlation", layers=[2, 4], width=5)
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["layer 2", "layer 4"]
    assert drawn.get_figwidth() == 5
    frame = by_parameter(swept, "dead_fraction", layers=[4], direction="backward")
    assert set(frame["direction"]) == {"backward"}
    with pytest.raises(ValueError, match="there is no layer 6: give layers from 1 to 5"):
        against(swept, layers=[1, 6])
    with pytest.raises(ValueError, match="unknown statistic 'stdev': did you mean 'std'"):
        against(swept, "stdev")
    with pytest.raises(ValueError, match="unknown swept parameter 'size': .*init_size"):
        against(swept, parameter="size")


def test_a_parameter_of_activations_has_a_line_for_each_init(swept: Results) -> None:
    names = {name: name.replace("ramp", "steep") for name in swept.inits}
    turned = swept.table.astype({"init": str, "activation": str}).rename(
        columns={"init": "activation", "activation": "init", "init_size": "activation_size"}
    )
    turned["activation"] = turned["activation"].map(names)
    (key,) = against(turned, layers=[1]).legends
    assert [text.get_text() for text in key.get_texts()] == ["relu", "tanh"]


def test_a_second_parameter_tells_lines_apart(swept: Results) -> None:
    sizes = swept.table["init_size"]
    table = swept.table.assign(init_shift=np.where(sizes > 1, 0.5, 0.0))
    table["init"] = spelled_with(swept, "shift=0.5", sizes > 1)
    (key,) = against(table, layers=[1]).legends
    names = [text.get_text().replace("\n", "") for text in key.get_texts()]
    ramps = ("ramp", "ramp(shift=0.5)")
    assert names == [f"{name}, {ramp}" for name in ("relu", "tanh") for ramp in ramps]


def test_a_parameter_that_is_a_word_tells_lines_apart(swept: Results) -> None:
    sizes = swept.table["init_size"]
    table = swept.table.assign(init=spelled_with(swept, "mode=fan_out", sizes > 1))
    (key,) = against(table, layers=[1]).legends
    names = [text.get_text().replace("\n", "") for text in key.get_texts()]
    ramps = ("ramp", "ramp(mode=fan_out)")
    assert names == [f"{name}, {ramp}" for name in ("relu", "tanh") for ramp in ramps]


def spelled_with(swept: Results, parameter: str, where: pd.Series) -> pd.Series:
    """The inits of a table, some of them with a parameter more."""
    names = swept.table["init"].astype(str)
    return names.mask(
        where & names.str.contains("(", regex=False), names.str.rstrip(")") + f",{parameter})"
    )


def test_without_a_sweep_there_is_nothing_to_draw_against(results: Results) -> None:
    results = Results.of(results.table.drop(columns="init_std"))
    with pytest.raises(ValueError, match="no parameter differs between the entries of a family"):
        against(results)
    assert "a range does" in FIGURES["statistic_against_parameter"].missing(results)


def test_points_outside_are_marked_and_the_line_comes_back(swept: Results) -> None:
    frame = FIGURES["statistic_against_parameter"].frame(swept)
    frame.loc[frame["init_size"] == 0.1, ["std", "low", "high"]] = 0.0
    axes = axes_of(FIGURES["statistic_against_parameter"].draw_frame(frame))["layer 1"]
    assert [kind for kind, _ in markers(axes, PALETTE[0])].count("v") == 1
    line = next(line for line in axes.lines if np.size(line.get_xdata()) == 13)
    assert np.isfinite(np.asarray(line.get_ydata())).all()


def test_a_figure_says_what_it_lacks(table: pd.DataFrame) -> None:
    bare = Results.of(table[table["direction"] == "forward"])
    assert "a bare table has none" in FIGURES["distribution_by_depth"].missing(bare)
    assert "--backward" in FIGURES["gradient_by_depth"].missing(bare)
    with pytest.raises(ValueError, match="cannot draw gradient_by_depth: gradients were not"):
        FIGURES["gradient_by_depth"].draw(bare)


def test_adding_a_figure_is_one_definition(results: Results) -> None:
    @register_figure(title="Mine", data=lambda given: given.table, needs=[GRADIENTS])
    def mine(frame: pd.DataFrame) -> Figure:
        """What to
        see.
        """
        return Figure()

    try:
        entry = FIGURES["mine"]
        assert (entry.title, entry.caption) == ("Mine", "What to see.")
        assert isinstance(entry.draw(results), Figure)
        mine.__module__ = "elsewhere"
        with pytest.raises(ValueError, match="figure 'mine' is registered already"):
            register_figure(title="Again", data=lambda given: given.table)(mine)
    finally:
        FIGURES.remove("mine")


def test_drawing_leaves_matplotlib_as_it_was(results: Results) -> None:
    before = dict(mpl.rcParams)
    FIGURES["verdicts"].draw(results)
    assert dict(mpl.rcParams) == before


def test_results_cross_to_another_process(results: Results) -> None:
    again = pickle.loads(pickle.dumps(results))
    pd.testing.assert_frame_equal(again.summary, results.summary)
    assert again.inits == INITS


# maps


def test_std_map_marks_what_vanished_and_overflowed(results: Results, table: pd.DataFrame) -> None:
    axes = FIGURES["last_layer_std"].draw(results).axes[0]
    labels = pd.DataFrame(texts(axes, 4), index=INITS, columns=ACTIVATIONS)
    assert str(labels.loc["normal(std=1e-05)", "relu"]).startswith("−2")
    assert labels.loc["normal(std=1e-05)", "squared_relu"] == "−∞"
    assert labels.loc["normal(std=1000000)", "squared_relu"] == "∞"
    last = table[
        (table["layer"] == 5)
        & (table["tensor"] == "activation")
        & (table["direction"] == "forward")
        & (table["init"] == "kaiming_normal")
        & (table["activation"] == "tanh")
    ]
    expected = f"{np.log10(last['std'].median()):.1f}".replace("-", "−")
    assert labels.loc["kaiming_normal", "tanh"] == expected


def test_std_map_is_symmetric_and_full_beyond_its_limit(results: Results) -> None:
    axes = FIGURES["last_layer_std"].draw(results).axes[0]
    mesh = axes.collections[0]
    assert mesh.get_clim() == (-4, 4)
    shown = np.asarray(mesh.get_array()).reshape(4, 4)
    assert shown[0, 2] == -4
    assert shown[1, 2] == 4
    assert mesh.cmap is not None
    assert mesh.cmap(0.5)[3] < 0.02  # bare paper in the middle
    assert mesh.cmap(0.0)[3] == mesh.cmap(1.0)[3] == 1


def test_healthy_cells_are_bold(results: Results) -> None:
    axes = FIGURES["last_layer_std"].draw(results).axes[0]
    healthy = results.summary["verdict"] == "healthy"
    assert [text.get_fontweight() == "bold" for text in axes.texts] == healthy.to_list()
    assert 0 < healthy.sum() < len(healthy)


def test_verdict_map_says_the_summary(results: Results) -> None:
    axes = FIGURES["verdicts"].draw(results).axes[0]
    for text, (_, row) in zip(axes.texts, results.summary.iterrows(), strict=True):
        votes = round(row["agreement"] * row["seeds"])
        expected = str(row["verdict"]).replace(" ", "\n")
        assert text.get_text() == expected + f"\n{votes} of 3" * (votes < 3)


def test_dead_map_marks_overflow_apart_from_none(results: Results) -> None:
    axes = FIGURES["dead_units"].draw(results).axes[0]
    labels = pd.DataFrame(texts(axes, 4), index=INITS, columns=ACTIVATIONS)
    assert labels.loc["normal(std=1e-05)", "squared_relu"] == "·"
    assert labels.loc["normal(std=1000000)", "squared_relu"] == "∞"
    assert labels.loc["kaiming_normal", "tanh"] == "·"


def test_names_are_taken_literally(table: pd.DataFrame) -> None:
    odd = table[table["activation"] == "relu"].astype({"init": str})
    odd = odd.assign(init=odd["init"].replace("kaiming_normal", "a$b$<i>_x^2"))
    drawn = FIGURES["verdicts"].draw(Results.of(odd))
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        drawn.savefig(buffer, format="svg")
    assert b"a$b$&lt;i&gt;_x^2" in buffer.getvalue()


# curves


def line_data(axes: Axes, color: str) -> tuple[np.ndarray, np.ndarray]:
    """The points of the one curve of a colour and dash."""
    (line,) = [
        line
        for line in axes.lines
        if line.get_marker() == "None" and to_rgb(line.get_color()) == to_rgb(color)
    ]
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def bands(axes: Axes, color: str) -> list[np.ndarray]:
    """The corners of the intervals of a colour."""
    return [
        np.asarray(path.vertices)
        for drawn in axes.collections
        for face, path in zip(np.asarray(drawn.get_facecolor()), drawn.get_paths(), strict=False)
        if tuple(face[:3]) == pytest.approx(to_rgb(color))
    ]


def markers(axes: Axes, color: str) -> list[tuple[str, float]]:
    """Marker and layer of what is marked in a colour."""
    return [
        (str(line.get_marker()), float(np.asarray(line.get_xdata())[0]))
        for line in axes.lines
        if line.get_marker() != "None" and to_rgb(line.get_color()) == to_rgb(color)
    ]


def test_std_curve_is_the_geometric_mean_with_its_interval(
    results: Results, table: pd.DataFrame
) -> None:
    axes = axes_of(FIGURES["std_by_depth"].draw(results))["tanh"]
    color = strokes(INITS)["kaiming_normal"].color
    layers, heights = line_data(axes, color)
    rows = table[
        (table["tensor"] == "activation")
        & (table["direction"] == "forward")
        & (table["init"] == "kaiming_normal")
        & (table["activation"] == "tanh")
    ]
    stds = rows.pivot(index="layer", columns="seed", values="std").to_numpy()
    assert layers.tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(10**heights, stats.gmean(stds, axis=1))
    low, high = stats.t.interval(
        0.95, 2, np.log10(stds).mean(axis=1), stats.sem(np.log10(stds), axis=1)
    )
    (edges,) = bands(axes, color)
    for layer, bottom, top in zip(layers, low, high, strict=True):
        drawn = edges[edges[:, 0] == layer][:, 1]
        assert (drawn.min(), drawn.max()) == (pytest.approx(bottom), pytest.approx(top))


def test_curves_mark_what_leaves_the_panel(results: Results) -> None:
    axes = axes_of(FIGURES["std_by_depth"].draw(results))["squared_relu"]
    vanishing, exploding = (strokes(INITS)[name].color for name in INITS[:2])
    assert markers(axes, vanishing) == [("v", 1.0)]
    assert markers(axes, exploding) == [("^", 1.0)]


def test_a_gradient_leaves_the_panel_on_its_way_to_the_input(results: Results) -> None:
    axes = axes_of(FIGURES["gradient_by_depth"].draw(results))["relu"]
    ((marker, layer),) = markers(axes, strokes(INITS)["normal(std=1e-05)"].color)
    assert marker == "v"
    assert 3 < layer < 4


def test_a_mean_that_overflows_ends_in_a_cross(table: pd.DataFrame) -> None:
    hurt = table.copy()
    here = (hurt["init"] == "kaiming_normal") & (hurt["activation"] == "tanh") & (hurt["layer"] > 3)
    hurt.loc[here, "nonfinite"] = 7
    axes = axes_of(FIGURES["mean_by_depth"].draw(Results.of(hurt)))["tanh"]
    assert markers(axes, strokes(INITS)["kaiming_normal"].color) == [("x", 3.0)]


def test_a_signal_that_never_was_is_marked(table: pd.DataFrame) -> None:
    gone = table.assign(sample_correlation=np.nan)
    axes = axes_of(FIGURES["sample_correlation"].draw(Results.of(gone)))["relu"]
    assert [marker for marker, _ in markers(axes, PALETTE[0])] == ["x"]


def test_scales_keep_within_their_bounds() -> None:
    assert LOG.limits(np.array([-300.0, 5.5, np.inf, np.nan])) == (-6, 6)
    assert LOG.limits(np.array([0.2, -0.3])) == (-1, 1)
    assert LINEAR.limits(np.array([0.7, -0.6])) == (-1, 1)
    assert LOG.ticks((-6, 6)) == [-6, -4, -2, 0, 2, 4, 6]
    assert SHARE.ticks((0, 1)) == [0, 0.5, 1]
    assert LOG.limits(np.array([])) == (-1, 1)


@pytest.mark.parametrize(
    ("least", "most", "labels"),
    [
        (0.97, 4.3, "1 2 3 4"),
        (1, 1, "1 2"),
        (1, 16, "1 2 5 10"),
        (3, 3.5, "3 4 5 6"),
        (40, 700, "50 100 200 500"),
        (1, 12_000, "1 10 100 1,000 10,000"),
    ],
)
def test_an_axis_of_counts_is_near_them(least: float, most: float, labels: str) -> None:
    """It leaves a twentieth at each end, and has no tick below one where all are above."""
    heights = np.log10([most, least, np.inf, np.nan])
    low, high = NUMBER.limits(heights)
    span = math.log10(max(most / least, 2))
    assert (low, high) == pytest.approx(
        (math.log10(least) - span / 20, math.log10(least) + 1.05 * span)
    )
    ticks = NUMBER.ticks((low, high))
    assert " ".join(NUMBER.label(tick) for tick in ticks) == labels
    assert ticks == pytest.approx([math.log10(int(n.replace(",", ""))) for n in labels.split()])
    assert NUMBER.limits(np.array([])) == pytest.approx((-0.05, 1.05))


@pytest.mark.parametrize("depth", [2, 3, 6, 20, 21, 50, 1000])
def test_layer_ticks(depth: int) -> None:
    ticks = layer_ticks(depth)
    assert (ticks[0], ticks[-1]) == (1, depth)
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 8


def test_story_shows_every_seed_and_both_ends(results: Results, table: pd.DataFrame) -> None:
    drawn = FIGURES["shifted_relu_story"].draw(results)
    mean = drawn.axes[0]
    thin = [line for line in mean.lines if line.get_linewidth() == 0.6]
    thin = [line for line in thin if np.size(line.get_xdata()) == 5]
    assert len(thin) == 2 * 3
    rows = table[
        (table["tensor"] == "activation")
        & (table["direction"] == "forward")
        & (table["init"] == "kaiming_normal")
        & (table["activation"] == "shifted_relu")
    ]
    ends = rows.groupby("layer")["mean"].mean()
    labels = {text.get_text() for text in mean.texts}
    assert f"{ends[1]:.2f}".replace("-", "−") in labels
    assert f"shifted_relu\n{ends[5]:.2f}".replace("-", "−") in labels


# distributions


def test_every_finite_bin_has_the_band_of_its_values() -> None:
    low, high = bin_edges()
    band = band_of(list(low), list(high))
    inside = band[np.isfinite(low) & np.isfinite(high)]
    assert (np.diff(inside) >= 0).all()
    assert (inside.min(), inside.max()) == (0, BANDS - 1)
    assert (band[~(np.isfinite(low) & np.isfinite(high))] == OVERFLOW).all()
    for value, expected in ((0.0, ZERO), (1e-30, ZERO + 1), (1.05, ZERO + 14), (-1.05, ZERO - 14)):
        if value:
            at = np.flatnonzero((low <= value) & (value < high))[0]
        else:
            at = np.flatnonzero((low == 0) & (high == 0))[0]
        assert band[at] == expected


def test_a_value_lies_between_the_edges_of_its_band() -> None:
    for value in (-2e3, -1.05, -1e-30, 0.0, 1e-30, 1e-3, 0.5, 999.0, 1e30):
        (band,) = band_of([value], [value])
        assert EDGES[0][band] <= value <= EDGES[1][band]
    assert np.isnan(EDGES[:, OVERFLOW]).all()


def test_bands_as_a_table_and_back() -> None:
    counts = np.random.default_rng(3).integers(0, 2, (4, BANDS + 1)) * 7
    counts[2] = 0
    keys = pd.DataFrame({"layer": [3, 1, 2, 9], "name": list("abcd")})
    frame = tidy(keys, counts)
    np.testing.assert_array_equal(counts_of(frame, ["layer", "name"]), counts)
    assert (frame["count"] > 0).sum() == (counts > 0).sum()


def test_banding_keeps_every_count_and_adds_up_equal_keys() -> None:
    generator = np.random.default_rng(7)
    low, high = bin_edges()
    band = band_of(list(low), list(high))
    counts = generator.integers(0, 5, (2, 3, len(low)))
    a, b = ("mlp", "a", "relu", 5), ("mlp", "b", "relu", 5)
    result = banded(band, [(a, counts[0]), (b, counts[1]), (a, counts[1])])
    both = counts.sum(axis=0)
    for index in range(BANDS + 1):
        np.testing.assert_array_equal(result[a][:, index], both[:, band == index].sum(axis=1))
    np.testing.assert_array_equal(result[b].sum(axis=1), counts[1].sum(axis=1))


def test_picture_shows_zeros_and_overflow_as_what_they_are() -> None:
    counts = np.zeros((3, BANDS + 1), np.int64)
    counts[0, [ZERO, ZERO + 10]] = 30, 10
    counts[1, [ZERO + 10, OVERFLOW]] = 39, 1
    colors = picture(counts)
    middle = len(colors) // 2
    assert colors[middle, 0, 3] == pytest.approx(0.75)
    assert colors[middle - 11, 0, 3] == 1  # ten bands above the three rows of zero
    assert colors[middle + 11, 0, 3] == 0
    assert (colors[:, 1, 3] == 0.5).all()
    assert (colors[:, 2, 3] == 0).all()


# style


def luminance(color: str) -> float:
    return float(linear(color) @ [0.2126, 0.7152, 0.0722])


def linear(color: str) -> np.ndarray:
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear sRGB."""
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(matrix) @ rgb.clip(0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Machado, Oliveira & Fernandes (2009), severity 1
VISIONS = {
    "normal": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_are_told_apart(vision: str) -> None:
    seen = [lab(np.array(VISIONS[vision]) @ linear(color)) for color in PALETTE]
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
    assert min(distances) > 15


@pytest.mark.parametrize("color", PALETTE)
@pytest.mark.parametrize("paper", ["#ffffff", "#15171b"])
def test_colours_are_seen_on_either_paper(color: str, paper: str) -> None:
    light, dark = sorted((luminance(color), luminance(paper)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) > 2.5


def test_fifteen_names_are_told_apart_by_colour_and_dash() -> None:
    given = strokes([f"init{number}" for number in range(15)])
    assert len(set(given.values())) == 15
    assert INK not in PALETTE


def test_names_wrap_without_losing_a_letter() -> None:
    for name in ("relu", "general_relu(leak=0.2,sub=0.3)", "a" * 40, "x(y=1)"):
        assert wrapped(name, 8).replace("\n", "") == name


# theory


def test_theory_is_drawn_where_it_applies(table: pd.DataFrame) -> None:
    forward = table[table["direction"] == "forward"]
    first = forward[forward["seed"] == forward["seed"].min()].drop(columns="seed")
    layer = first["layer"].to_numpy()
    predicted = first.assign(
        std=2.0,
        second_moment=5.0,
        second_moment_spread=5 * np.sqrt(np.e - 1),  # a log-normal of variance 1
        note=np.where(layer > 3, "not beyond layer 3", ""),
    )
    results = Results.of(table, predicted=predicted)
    frame = FIGURES["std_by_depth"].frame(results)
    theory = frame[(frame["source"] == "theory") & (frame["activation"] == "relu")]
    curve = theory[theory["init"] == "kaiming_normal"]
    np.testing.assert_allclose(curve["std"], [2, 2, 2, np.nan, np.nan])
    ends = 2 * np.exp([-0.25 - 0.5, -0.25 + 0.5])
    np.testing.assert_allclose(curve[["low", "high"]].iloc[0], ends)
    axes = axes_of(FIGURES["std_by_depth"].draw_frame(frame))["relu"]
    (dotted,) = (line for line in axes.lines if to_rgb(line.get_color()) == to_rgb(INK))
    heights = np.asarray(dotted.get_ydata()).reshape(len(INITS), 6)  # a gap after each line
    np.testing.assert_allclose(heights[:, :3], np.log10(2))
    assert np.isnan(heights[:, 3:]).all()


def test_without_predictions_nothing_is_said_of_theory(results: Results) -> None:
    frame = FIGURES["std_by_depth"].frame(results)
    assert set(frame["source"]) == {"measured"}
    (key,) = FIGURES["std_by_depth"].draw_frame(frame).legends
    assert [text.get_text() for text in key.get_texts()] == INITS
